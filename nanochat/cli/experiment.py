"""`nanochat experiment`: runs that differ in some fields and share the rest, and a verdict in words."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.markdown import Markdown
from rich.table import Table

from nanochat import settings
from nanochat.cli.app import Changes, ComputeChanges, StoreUrl, app, need_home, open_store, out
from nanochat.errors import BadConfig

if TYPE_CHECKING:
    from nanochat.config.compute import Compute
    from nanochat.config.experiment import ExperimentFile
    from nanochat.config.pipeline import PipelineConfig
    from nanochat.experiments.children import Child
    from nanochat.store.artifacts import Artifact
    from nanochat.store.store import Store


@app.command
def experiment(
    file: Annotated[str, Parameter(help="YAML or JSON file with the experiment; `-`: standard input.")],
    *,
    changes: Changes = None,
    compute: ComputeChanges = None,
    store: StoreUrl = "",
    plain: Annotated[bool, Parameter(negative="", help="Without Prefect: in this process, no server.")] = False,
    dry_run: Annotated[bool, Parameter(negative="", help="Only print what would run and what it would cost.")] = False,
    html: Annotated[Path | None, Parameter(help="Also write the page to this file.")] = None,
) -> None:
    """Run an experiment: recipes, seeds, depths and FLOP budgets; what they have in common is made once.

    The file names a `base` profile, what varies (`recipes`, `grid`, `depths`, `flops`, `seeds`), and the `metric` that
    decides; `docs/experiments.md` describes it. Finished runs are reused: the same command repeats what is missing.

    Example: `nanochat experiment rates.yaml --dry-run`
    """
    from nanochat.experiments.children import children

    given, config, how = _read(file, changes, compute)
    runs = children(given, config)
    if dry_run:
        _plan(given, runs, open_store(store, read_only=True))
        return
    need_home()
    opened = open_store(store)
    made = (
        _run_plain(given, runs, config, how, opened) if plain else _run_with_prefect(given, config, how, store, opened)
    )
    _show(made, html)


def _read(
    file: str, changes: list[str] | None, compute: list[str] | None
) -> tuple[ExperimentFile, PipelineConfig, Compute]:
    """The experiment of a file, the config that its runs start from, and how to run."""
    from nanochat import profiles
    from nanochat.config.experiment import ExperimentFile
    from nanochat.config.files import in_file, read_values
    from nanochat.config.overrides import override, parse

    values = read_values(file)
    try:
        given = parse(ExperimentFile, values)
    except BadConfig as error:
        raise in_file(file, error) from None
    chosen = profiles.profile(given.base)
    return given, override(chosen.config, changes or []), override(chosen.compute, compute or [])


def _plan(given: ExperimentFile, runs: Sequence[Child], store: Store) -> None:
    from nanochat.console import duration
    from nanochat.execution.plan import plan
    from nanochat.experiments.cost import stage_costs, total
    from nanochat.graphs import resolve
    from nanochat.graphs.experiment import experiment
    from nanochat.scaling import derive_hyperparameters

    graph = experiment(runs, resolve.experiment(store, runs, given.metric, keep=False), given.metric)
    trainings = {
        of.base: derive_hyperparameters(
            run.config.pretrain, run.config.tokenizer.vocab_size, run.config.rows.sequence_len
        )
        for run, of in zip(runs, graph.children, strict=True)
    }
    costs = stage_costs(plan(graph, store), trainings, store)
    table = Table("stage", "cached", "would run", "training FLOPs", "time", box=None, pad_edge=False)
    for cost in costs:
        seconds = "not measured" if cost.seconds is None else duration(cost.seconds) if cost.to_run else ""
        table.add_row(
            cost.stage, str(cost.cached), str(cost.to_run), f"{cost.flops:.3g}" if cost.flops else "", seconds
        )
    out.print(table)
    out.print(f"\n{len(runs)} runs: {', '.join(run.name for run in runs[:12])}{', …' * (len(runs) > 12)}", markup=False)
    out.print(total(costs, runs[0].config.report), markup=False)


def _run_with_prefect(
    given: ExperimentFile, config: PipelineConfig, compute: Compute, store_url: str, store: Store
) -> Artifact:
    from flows.run import experiment_with_prefect

    stage, key = experiment_with_prefect(given, config, compute, store_url or settings.store_url())
    manifest = store.read(stage, key)
    assert manifest is not None
    return store.artifact(manifest, reused=True)


def _run_plain(
    given: ExperimentFile, runs: Sequence[Child], config: PipelineConfig, compute: Compute, store: Store
) -> Artifact:
    from nanochat.console import Screen, duration
    from nanochat.execution.graph import Failures
    from nanochat.execution.local import run_local
    from nanochat.graphs import resolve
    from nanochat.graphs.experiment import experiment, records, summary
    from nanochat.store.run_recording import record_run

    started, folder = time.monotonic(), settings.home() / "runs"
    failures: Failures = {}
    with Screen(out) as screen, record_run(store, given.base, config.canonical()) as record:
        sources = resolve.experiment(store, runs, given.metric)
        graph = experiment(runs, sources, given.metric)
        results = run_local(graph, store, compute, folder, (record, screen), failures)
        found = records(runs, sources, given.metric, graph, failures)
        if all(child.problem for child in found):
            raise next(iter(failures.values()))
        last = summary(given, found, graph, results)
        made = run_local(last, store, compute, folder, (record, screen))[last.summary]
        store.set_alias("experiment/latest", made.manifest)
    out.print(f"\n{screen.computed} computed, {screen.cached} cached, {duration(time.monotonic() - started)}.")
    return made


def _show(made: Artifact, html: Path | None) -> None:
    page = made.path / "report.html"
    if html:
        try:
            html.write_bytes(page.read_bytes())
        except OSError as error:
            raise BadConfig(f"`{html}` cannot be written: {error.strerror}.", hint="Name another file.") from error
    text = (made.path / "report.md").read_text(encoding="utf-8")
    if out.is_terminal:
        out.print(Markdown(text))
    else:
        out.out(text, highlight=False)
    out.print(f"page    {html or page}", markup=False)
