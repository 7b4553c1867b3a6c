"""`nanochat runs`: lists recorded runs, shows one, pins one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter, validators
from rich.markup import escape
from rich.table import Table

from nanochat.cli.app import StoreUrl, app, between, fail_if_unreadable, open_store, out
from nanochat.errors import BadConfig, NotFound

if TYPE_CHECKING:
    from nanochat.store.runs import RecordedRun


CHANGES_SHOWN = 3
PINS = Group("Pins", validator=validators.MutuallyExclusive())


@app.command
def runs(
    run_id: Annotated[str, Parameter(help="One run, with its stages: an id, its beginning or its end.")] = "",
    *,
    pin: Annotated[
        str, Parameter(group=PINS, help="Protect the artifacts of this run from deletion, until it is unpinned.")
    ] = "",
    unpin: Annotated[str, Parameter(group=PINS, help="Remove that protection.")] = "",
    limit: Annotated[int, between(0, 1_000_000), Parameter(help="Number of runs; 0: all.")] = 20,
    config: Annotated[
        bool, Parameter(negative="", help="Print the config of the run as JSON, for `nanochat run --config FILE`.")
    ] = False,
    store: StoreUrl = "",
) -> None:
    """List the runs, newest first, or show one.

    Example: `nanochat runs --pin a1b2c3`
    """
    from nanochat.console import duration
    from nanochat.store import runs as records

    opened = open_store(store, read_only=not (pin or unpin))
    if pin:
        chosen = records.find(opened, pin).record.id
        records.pin(opened, chosen)
        out.print(f"{chosen} is pinned.")
        return
    if unpin:  # also a run whose record is gone
        chosen = unpin if unpin in records.pins(opened) else records.find(opened, unpin).record.id
        records.unpin(opened, chosen)
        out.print(f"{chosen} is unpinned.")
        return
    if config and not run_id:
        raise BadConfig("`--config` needs a run.", hint="For example `nanochat runs a1b2c3 --config`.")
    if run_id:
        chosen = records.find(opened, run_id)
        if config:
            out.print(json.dumps(chosen.record.config, indent=2), markup=False)
        else:
            _show_run(chosen)
        return
    found, unread = records.survey(opened, limit)
    if not found:
        fail_if_unreadable(unread)
        out.print(f"No runs in {opened.objects.root} yet; `nanochat run` starts one.", markup=False)
        return
    table = Table(box=None, pad_edge=False)
    for title in ("started", "run", "", "profile", "changed", "computed", "cached", "took", "chat", ""):
        table.add_column(title, no_wrap=title != "changed")
    for each in found:
        record, states = each.record, [stage.state for stage in each.record.stages.values()]
        table.add_row(
            f"{record.started:%Y-%m-%d %H:%M}", record.id.rpartition("-")[2], _state(each), escape(record.profile),
            _changed(record.profile, record.config, CHANGES_SHOWN),
            str(states.count("computed")), str(states.count("reused")), duration(record.seconds),
            "" if record.chat_score is None else f"{record.chat_score:.3f}", "pinned" if each.pinned else "",
        )  # fmt: skip
    out.print(table)
    fail_if_unreadable(unread)


def _show_run(run: RecordedRun) -> None:
    from nanochat.console import duration

    record = run.record
    out.print(f"run      {record.id}{'  (pinned)' if run.pinned else ''}")
    out.print(f"state    {_state(run)}  after {duration(record.seconds)}")
    if record.error:
        out.print(f"         {escape(record.error)}")
    if record.flow_run:
        out.print(f"flow run {record.flow_run}")
    out.print(f"config   {escape(record.profile)}  {_changed(record.profile, record.config)}\n")
    table = Table("stage", "", "key", "took", box=None, pad_edge=False)
    for label, stage in record.stages.items():
        table.add_row(escape(label), stage.state, stage.key[:8], duration(stage.seconds) if stage.key else "")
    out.print(table)


def _state(run: RecordedRun) -> str:
    colour = {"completed": "green", "running": "cyan", "cancelled": "yellow"}.get(run.state, "red")
    return f"[{colour}]{run.state}[/]"


def _changed(profile: str, config: dict[str, Any], most: int = 0) -> str:
    """Differences from the profile's current values: `sft.epochs=2`."""
    from nanochat.config.overrides import flatten
    from nanochat.profiles import profile as profile_named

    try:
        usual, here = flatten(profile_named(profile).config.canonical()), flatten(config)
    except (NotFound, BadConfig):  # the profile is gone, or another one by now
        return ""
    found = [" ".join(f"{name}={value}".split()) for name, value in here.items() if usual.get(name) != value]
    more = f" … {len(found) - most} more" if most and len(found) > most else ""
    return escape(" ".join(found[: most or None]) + more)
