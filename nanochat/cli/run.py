"""Commands that make something, and talk to what was made."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.markup import escape
from rich.table import Table

from nanochat import settings
from nanochat.cli.app import (
    Changes,
    ComputeChanges,
    ConfigFile,
    ProfileName,
    StoreUrl,
    app,
    need_home,
    open_store,
    out,
    warn,
)
from nanochat.errors import NanochatError

if TYPE_CHECKING:
    from nanochat.config.compute import Compute
    from nanochat.config.pipeline import PipelineConfig
    from nanochat.graphs.pipeline import Result


def _configured(
    profile: str, file: str, changes: list[str] | None, compute: list[str] | None
) -> tuple[PipelineConfig, Compute]:
    from nanochat import profiles
    from nanochat.config.files import read_config
    from nanochat.config.overrides import override
    from nanochat.config.pipeline import PipelineConfig

    chosen = profiles.profile(profile)
    config = read_config(PipelineConfig, file) if file else chosen.config
    return override(config, changes or []), override(chosen.compute, compute or [])


@app.command
def run(
    *,
    profile: ProfileName = "demo",
    config_file: ConfigFile = "",
    changes: Changes = None,
    compute: ComputeChanges = None,
    store: StoreUrl = "",
    plain: Annotated[bool, Parameter(negative="", help="Without Prefect: in this process, no server.")] = False,
    dry_run: Annotated[
        bool, Parameter(negative="", help="Only say what would run and why; as `nanochat plan`.")
    ] = False,
) -> None:
    """Run the pipeline: what the store has is reused, the rest is computed.

    Example: `nanochat run --profile demo --set sft.epochs=2`
    """
    if dry_run:
        plan(profile=profile, config_file=config_file, changes=changes, compute=compute, store=store)
        return
    config, how = _configured(profile, config_file, changes, compute)
    need_home()
    if plain:
        _run_plain(config, how, store, profile)
        return
    from flows.run import run_with_prefect

    sys.exit(run_with_prefect(config, how, store or settings.store_url(), profile))


def _run_plain(config: PipelineConfig, compute: Compute, store_url: str, profile: str) -> None:
    from nanochat.console import Screen, duration
    from nanochat.graphs.pipeline import PlainRun, pipeline, publish_aliases
    from nanochat.store.run_recording import record_run

    began = time.monotonic()
    opened = open_store(store_url)
    with Screen(out) as screen, record_run(opened, profile, config.canonical()) as record:
        result = pipeline(PlainRun(opened, compute, settings.home() / "runs", (record, screen)), config)
        publish_aliases(opened, result)
    out.print(f"\n{screen.computed} computed, {screen.cached} cached, {duration(time.monotonic() - began)}.")
    say_where(result)


def say_where(result: Result) -> None:
    """What the newcomer does next."""
    out.print(f"report  {result.report.path / 'report.html'}", markup=False)
    out.print('chat    nanochat chat -p "Hello!"')


@app.command
def fetch(
    *,
    profile: ProfileName = "demo",
    config_file: ConfigFile = "",
    changes: Changes = None,
    compute: ComputeChanges = None,
    store: StoreUrl = "",
    new_split: Annotated[
        bool, Parameter(negative="", help="Draw the validation sample anew: models of before cannot be compared.")
    ] = False,
) -> None:
    """Fill the store ahead, for machines without a network: shards, vocabulary, conversations.

    What the source has now is pinned in the store: `nanochat run` with the same settings asks nobody from then on.
    `nanochat fetch` again looks for what is new.

    Example: `nanochat fetch --profile speedrun --store s3://bucket/nanochat`
    """
    from nanochat.console import Screen, duration
    from nanochat.graphs.pipeline import PlainRun, gather
    from nanochat.sources.shard_list import fetch_listing

    began = time.monotonic()
    config, how = _configured(profile, config_file, changes, compute)
    need_home()
    opened = open_store(store)
    with Screen(out) as screen:
        screen.say(f"source  {config.data.source}")
        shards = fetch_listing(config.data, opened, new_split=new_split)
        gather(PlainRun(opened, how, settings.home() / "runs", (screen,)), config, shards)
    out.print(f"\n{screen.computed} computed, {screen.cached} cached, {duration(time.monotonic() - began)}.")
    out.print(f"{len(shards)} shards are in {opened.objects.root}: runs on them need no network.", markup=False)


@app.command
def plan(
    *,
    profile: ProfileName = "demo",
    config_file: ConfigFile = "",
    changes: Changes = None,
    compute: ComputeChanges = None,
    store: StoreUrl = "",
) -> None:
    """Say what would run and why, before paying for it.

    Example: `nanochat plan --set tokenizer.vocab_size=4096`
    """
    from nanochat.graphs.pipeline import Plan, pipeline
    from nanochat.scaling import derive_hyperparameters

    config, _ = _configured(profile, config_file, changes, compute)
    planned = Plan(open_store(store, read_only=True))
    pipeline(planned, config)
    table = Table(box=None, pad_edge=False)
    for title in ("stage", "", "why"):
        table.add_column(title)
    for entry in planned.entries:
        state = "[cyan]cached[/]" if entry.artifact else "[green]would run[/]"
        table.add_row(escape(entry.label), state, entry.artifact.key[:8] if entry.artifact else escape(entry.why))
    out.print(table)
    training = derive_hyperparameters(config.pretrain, config.tokenizer.vocab_size, config.rows.sequence_len)
    out.print(f"\npretraining: {training.describe()}")


@app.command
def profiles() -> None:
    """List the profiles: those of nanochat, and your own in `NANOCHAT_HOME/profiles`.

    A file `NAME.yaml` (or `.json`) there holds the differences to a `base`: `config: {sft: {epochs: 2}}`, `compute: …`.
    """
    from nanochat.profiles import PROFILES, profile, profile_files

    for name, known in PROFILES.items():
        out.print(f"{name:<10} {known.summary}")
    for name in profile_files():
        try:
            out.print(f"{name:<10} {profile(name).summary}", markup=False)
        except NanochatError as error:
            warn(str(error))


@app.command
def config(profile: ProfileName = "demo", *, config_file: ConfigFile = "", changes: Changes = None) -> None:
    """Print a complete config as JSON, for `nanochat run --config FILE`.

    Example: `nanochat config demo --set pretrain.depth=6`
    """
    out.print(_configured(profile, config_file, changes, None)[0].model_dump_json(indent=2), markup=False)
