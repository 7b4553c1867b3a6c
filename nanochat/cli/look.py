"""Commands that look at what is there."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter, validators
from rich.markup import escape
from rich.table import Table

from nanochat.cli.app import Reference, StoreUrl, app, between, fail, open_store, out
from nanochat.errors import BadConfig, NanochatError, NotFound, WrongKind

if TYPE_CHECKING:
    from nanochat.store.runs import Run


CHANGES_SHOWN = 3
PINS = Group("Pins", validator=validators.MutuallyExclusive())
FORM = Group("Form", validator=validators.MutuallyExclusive())


@app.command
def ls(*, stage: Annotated[str, Parameter(help="Only this stage.")] = "", store: StoreUrl = "") -> None:
    """List the artifacts of the store, newest first, and the aliases.

    Example: `nanochat ls --stage pretrain`
    """
    from nanochat.console import duration, headline

    opened = open_store(store, read_only=True)
    names: dict[str, list[str]] = {}
    for alias, target in opened.aliases().items():
        names.setdefault(target.key, []).append(alias)
    table = Table(box=None, pad_edge=False)
    for title in ("made", "stage", "key", "took", "", "aliases"):
        table.add_column(title)
    found, unread = opened.survey(stage)
    manifests = sorted(found, key=lambda manifest: manifest.producer.ended, reverse=True)
    for manifest in manifests:
        table.add_row(
            f"{manifest.producer.ended:%Y-%m-%d %H:%M}", escape(manifest.stage), manifest.key[:8],
            duration(manifest.producer.seconds), headline(manifest.metrics), ", ".join(names.get(manifest.key, [])),
        )  # fmt: skip
    if manifests:
        out.print(table)
    elif stage and not unread:
        _say_none_of(stage, {manifest.stage for manifest in opened.manifests()}, opened.objects.root)
    elif not unread:
        out.print(f"Nothing in {opened.objects.root} yet; `nanochat run` makes something.", markup=False)
    _fail_at(unread)


def _fail_at(unread: dict[str, NanochatError]) -> None:
    """Ends the command when something could not be read; the rest has been shown."""
    for error in unread.values():
        others = f" {len(unread) - 1} more cannot be read." if len(unread) > 1 else ""
        fail(type(error)(error.message + others, hint=error.hint))


def _say_none_of(stage: str, stored: set[str], root: str) -> None:
    """That there is no artifact of a stage; raises `NotFound` when there is no such stage at all."""
    from nanochat.graphs.pipeline import STAGES

    known = sorted({each.name for each in STAGES} | stored)
    if stage not in known:
        near = difflib.get_close_matches(stage[:100], known, 1)
        there = ", ".join(f"`{name}`" for name in known)
        raise NotFound(
            f"There is no stage `{stage[:100]}`.", hint=f"Did you mean `{near[0]}`?" if near else f"There are {there}."
        )
    has = f"it has artifacts of {', '.join(sorted(stored))}" if stored else "it has no artifacts yet"
    out.print(f"No artifact of the stage {stage} in {root}; {has}.", markup=False)


@app.command
def show(reference: Reference, *, store: StoreUrl = "") -> None:
    """Show an artifact: its manifest, whole.

    Example: `nanochat show chat/latest`
    """
    out.print_json(open_store(store, read_only=True).resolve(reference).model_dump_json())


@app.command
def lineage(
    reference: Reference,
    *,
    down: Annotated[bool, Parameter(negative="", help="What was made from it, instead.")] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative="", group=FORM, help="As JSON.")] = False,
    html: Annotated[
        Path | None, Parameter(group=FORM, help="As a page in this file, with a picture and all that is known.")
    ] = None,
    openlineage: Annotated[
        bool, Parameter(negative="", group=FORM, help="As OpenLineage events, a line each, oldest first.")
    ] = False,
    store: StoreUrl = "",
) -> None:
    """What an artifact was made from, down to the raw shards and their hashes; or what was made from it.

    Examples: `nanochat lineage chat/latest`, `nanochat lineage chat/latest --html lineage.html`
    """
    from nanochat.lineage import ancestry as lines

    opened = open_store(store, read_only=True)
    manifest = opened.resolve(reference)
    if html:
        from nanochat.lineage.page import as_page

        text = as_page(opened, manifest, down=down)
        try:
            html.write_text(text, encoding="utf-8")
        except OSError as error:
            raise BadConfig(f"`{html}` cannot be written: {error.strerror}.", hint="Name another file.") from error
        out.print(escape(str(html)))
    elif openlineage:
        from nanochat.lineage.openlineage import events

        for event in events(opened, manifest, down=down):
            out.out(json.dumps(event), highlight=False)
    elif as_json:
        out.print_json(lines.as_json(opened, manifest, down=down))
    else:
        out.print(escape("\n".join((lines.tree_down if down else lines.tree)(opened, manifest))))


@app.command
def diff(
    before: Reference,
    after: Reference,
    *,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="As JSON.")] = False,
    store: StoreUrl = "",
) -> None:
    """What sets two artifacts of one stage apart: settings, data, code, machine, results.

    Where their inputs differ, it says where that began.

    Example: `nanochat diff chat/production chat/latest`
    """
    from nanochat.lineage import differences

    opened = open_store(store, read_only=True)
    old, new = opened.resolve(before), opened.resolve(after)
    if old.stage != new.stage:
        raise WrongKind(f"`{before}` was made by {old.stage}, `{after}` by {new.stage}: only like can be compared.")
    found = {
        "asked for": differences.in_key(opened, old, new),
        "made by": [each for each in differences.beside_key(old, new) if each.what != "metric"],
        "came out": [each for each in differences.beside_key(old, new) if each.what == "metric"],
    }
    if as_json:
        out.print_json(data={name: [each.as_dict() for each in some] for name, some in found.items()})
        return
    if old.key == new.key:
        out.print(f"The same artifact: {old.stage}/{old.key}")
        return
    out.print(f"{old.stage} {old.key[:8]} → {new.key[:8]}")
    for name, some in found.items():
        out.print(f"\n[bold]{name}[/]" + ("" if some else "  the same"))
        for each in some:
            out.print(f"  {escape(str(each))}")


@app.command
def why(reference: Reference, *, store: StoreUrl = "") -> None:
    """Why an artifact was made and not reused: what of its key had changed since the nearest one before it.

    Example: `nanochat why base/latest`
    """
    from nanochat.lineage import differences

    opened = open_store(store, read_only=True)
    manifest = opened.resolve(reference)
    made = manifest.producer
    out.print(
        f"{manifest.stage} {manifest.key[:8]} was made {made.started:%Y-%m-%d %H:%M}"
        + escape(f" by {made.run}") * bool(made.run)
    )
    near = differences.nearest(opened, manifest, before=manifest)
    if near is None:
        out.print("because there was none of its stage in this store.")
        return
    out.print(f"because, unlike {near.key[:8]} of {near.producer.ended:%Y-%m-%d %H:%M}:")
    for each in differences.in_key(opened, near, manifest):
        out.print(f"  {escape(str(each))}")
    out.print(f"All of it: nanochat diff {near.key[:8]} {manifest.key[:8]}")


@app.command
def runs(
    run_id: Annotated[str, Parameter(help="One run, with its stages: an id, its beginning or its end.")] = "",
    *,
    pin: Annotated[str, Parameter(group=PINS, help="Keep all that this run made, until it is unpinned.")] = "",
    unpin: Annotated[str, Parameter(group=PINS, help="Let `nanochat gc` decide again.")] = "",
    limit: Annotated[int, between(0, 1_000_000), Parameter(help="Show so many; 0: all.")] = 20,
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
    if unpin:  # also one whose record is gone
        chosen = unpin if unpin in records.pins(opened) else records.find(opened, unpin).record.id
        records.unpin(opened, chosen)
        out.print(f"{chosen} is not pinned any more.")
        return
    if run_id:
        _show_run(records.find(opened, run_id))
        return
    found, unread = records.survey(opened, limit)
    if not found:
        _fail_at(unread)
        out.print(f"No runs in {opened.objects.root} yet; `nanochat run` makes one.", markup=False)
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
            "" if record.chatcore is None else f"{record.chatcore:.3f}", "pinned" if each.pinned else "",
        )  # fmt: skip
    out.print(table)
    _fail_at(unread)


def _show_run(run: Run) -> None:
    from nanochat.console import duration

    record = run.record
    out.print(f"run      {record.id}{'  (pinned)' if run.pinned else ''}")
    out.print(f"state    {_state(run)}  after {duration(record.seconds)}")
    if record.error:
        out.print(f"         {escape(record.error)}")
    if record.flow_run:
        out.print(f"flow run {record.flow_run}")
    out.print(f"config   {escape(record.profile)}  {_changed(record.profile, record.config)}\n")
    table = Table(box=None, pad_edge=False)
    for title in ("stage", "", "key", "took"):
        table.add_column(title)
    for label, stage in record.stages.items():
        table.add_row(escape(label), stage.state, stage.key[:8], duration(stage.seconds) if stage.key else "")
    out.print(table)


def _state(run: Run) -> str:
    colour = {"completed": "green", "running": "cyan", "cancelled": "yellow"}.get(run.state, "red")
    return f"[{colour}]{run.state}[/]"


def _changed(profile: str, config: dict[str, Any], most: int = 0) -> str:
    """What differs from the profile as it is now: `sft.epochs=2`."""
    from nanochat.graphs.pipeline import flatten
    from nanochat.profiles import PROFILES

    if profile not in PROFILES:
        return ""
    usual, here = flatten(PROFILES[profile].config.canonical()), flatten(config)
    found = [" ".join(f"{name}={value}".split()) for name, value in here.items() if usual.get(name) != value]
    more = f" … {len(found) - most} more" if most and len(found) > most else ""
    return escape(" ".join(found[: most or None]) + more)
