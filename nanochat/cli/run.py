"""Commands that run the pipeline, plan it, and show its settings."""

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
        bool, Parameter(negative="", help="Only print what would run and why, as `nanochat plan` does.")
    ] = False,
) -> None:
    """Run the pipeline: reuses the artifacts in the store and computes the rest.

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
    from nanochat.execution.local import run_local
    from nanochat.graphs import resolve
    from nanochat.graphs.pipeline import pretrain_to_chat
    from nanochat.store.run_recording import record_run

    started = time.monotonic()
    opened = open_store(store_url)
    with Screen(out) as screen, record_run(opened, profile, config.canonical()) as record:
        shards = resolve.shards(config.data, opened)
        graph = pretrain_to_chat(
            resolve.with_compared_models(config, opened), shards, resolve.conversations(config.conversations),
            resolve.core_bundle(config.core_bundle), resolve.problems(config.problems),
            resolve.pairs(config.pairs),
        )  # fmt: skip
        results = run_local(graph, opened, compute, settings.home() / "runs", (record, screen))
        resolve.publish_aliases(opened, graph, results)
    out.print(f"\n{screen.computed} computed, {screen.cached} cached, {duration(time.monotonic() - started)}.")
    out.print(f"report  {results[graph.report].path / 'report.html'}", markup=False)
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
        bool, Parameter(negative="", help="Draw a new validation sample: earlier models cannot be compared.")
    ] = False,
) -> None:
    """Fetch shards and conversations into the store, and train the vocabulary: later runs need no network.

    The store keeps a snapshot of the source's list of files, which `nanochat run` with the same settings uses from then
    on. `nanochat fetch` again updates the snapshot.

    Example: `nanochat fetch --profile speedrun --store s3://bucket/nanochat`
    """
    from nanochat.console import Screen, duration
    from nanochat.execution.local import run_local
    from nanochat.graphs import pipeline, resolve
    from nanochat.sources.shard_list import fetch_listing

    started = time.monotonic()
    config, how = _configured(profile, config_file, changes, compute)
    need_home()
    opened = open_store(store)
    with Screen(out) as screen:
        screen.print(f"source  {config.data.source}")
        shards = fetch_listing(config.data, opened, new_split=new_split)
        graph = pipeline.fetch(
            config, shards, resolve.conversations(config.conversations), resolve.core_bundle(config.core_bundle),
            resolve.problems(config.problems), resolve.pairs(config.pairs),
        )  # fmt: skip
        run_local(graph, opened, how, settings.home() / "runs", (screen,))
    out.print(f"\n{screen.computed} computed, {screen.cached} cached, {duration(time.monotonic() - started)}.")
    out.print(f"{len(shards)} shards are in {opened.objects.root}: runs on them need no network.", markup=False)


@app.command
def plan(
    *,
    profile: ProfileName = "demo",
    config_file: ConfigFile = "",
    changes: Changes = None,
    compute: ComputeChanges = None,
    store: StoreUrl = "",
    experiment: Annotated[
        str, Parameter(help="File of an experiment: print what it would run and cost, in place of the pipeline.")
    ] = "",
) -> None:
    """Print what would run and why. Changes nothing.

    Examples: `nanochat plan --set tokenizer.vocab_size=4096`, `nanochat plan --experiment rates.yaml`
    """
    if experiment:
        from nanochat.cli.experiment import experiment as run_experiment

        run_experiment(experiment, changes=changes, compute=compute, store=store, dry_run=True)
        return
    from nanochat.execution.plan import plan as plan_graph
    from nanochat.graphs import resolve
    from nanochat.graphs.pipeline import pretrain_to_chat
    from nanochat.scaling import derive_hyperparameters

    config, _ = _configured(profile, config_file, changes, compute)
    opened = open_store(store, read_only=True)
    shards = resolve.shards(config.data, opened, keep=False)
    graph = pretrain_to_chat(
        resolve.with_compared_models(config, opened), shards, resolve.conversations(config.conversations),
        resolve.core_bundle(config.core_bundle), resolve.problems(config.problems),
        resolve.pairs(config.pairs),
    )  # fmt: skip
    table = Table("stage", "", "why", box=None, pad_edge=False)
    for entry in plan_graph(graph, opened):
        state = "[cyan]cached[/]" if entry.artifact else "[green]would run[/]"
        table.add_row(escape(entry.node.label), state, entry.artifact.key[:8] if entry.artifact else escape(entry.why))
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
