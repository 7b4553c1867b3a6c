"""`nanochat evaluate`: evaluates a model of the store, or of Hugging Face, and shows tables and questions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.markup import escape
from rich.table import Table

from nanochat import settings
from nanochat.cli.app import Changes, ComputeChanges, ProfileName, StoreUrl, app, need_home, open_store, out
from nanochat.errors import BadConfig

if TYPE_CHECKING:
    from nanochat.config.compute import Compute
    from nanochat.config.pipeline import PipelineConfig
    from nanochat.store.artifacts import Artifact
    from nanochat.store.store import Store


@app.command
def evaluate(
    model: Annotated[
        str,
        Parameter(
            help="A model of the store (`chat/latest`, `stage/key` or the beginning of a key), or a causal language "
            "model of Hugging Face: a folder, a GGUF file, or `hf://org/name[@revision]`."
        ),
    ] = "chat/latest",
    *,
    tasks: Annotated[
        str,
        Parameter(
            help="Some of `base`, `core`, `chat`, `text`, separated by commas. Default: what suits the model, or only "
            "the text of `--text`."
        ),
    ] = "",
    bundle: Annotated[str, Parameter(help="Folder or zip file with the tasks of CORE.")] = "",
    text: Annotated[
        str, Parameter(help="Bits per byte of this text: a folder or file, `hf://…`, or another source.")
    ] = "",
    limit: Annotated[int, Parameter(help="Questions per task, and documents of a text; 0: all.")] = 0,
    profile: ProfileName = "demo",
    changes: Changes = None,
    compute: ComputeChanges = None,
    open_page: Annotated[
        bool, Parameter(name="--open", negative="", help="Open the questions and answers as a page in the browser.")
    ] = False,
    plain: Annotated[bool, Parameter(negative="", help="Without Prefect: in this process, no server.")] = False,
    store: StoreUrl = "",
) -> None:
    """Evaluate a model: on CORE, on the questions of a chat model, on any text.

    What the store has already is not computed again. A foreign model keeps its own tokenizer and chat template.

    Examples: `nanochat evaluate chat/latest --open`, `nanochat evaluate base/latest --bundle eval_bundle.zip`,
    `nanochat evaluate hf://org/name --tasks core,chat --limit 100`, `nanochat evaluate model.gguf --text book.txt`
    """
    config, how = _configured(profile, bundle, text, limit, changes or [], compute or [])
    chosen = list(dict.fromkeys([*filter(None, map(str.strip, tasks.split(","))), *["text"] * bool(text)]))
    need_home()
    url = store or settings.store_url()
    if plain:
        evaluations = _evaluate_plain(model, chosen, config, how, open_store(url))
    else:
        from flows.run import evaluate_with_prefect

        opened = open_store(url, read_only=True)
        made = evaluate_with_prefect(model, chosen, config, how, url, profile)
        evaluations = [opened.artifact(opened.resolve("/".join(name)), reused=True) for name in made]
    for evaluation in evaluations:
        _print(evaluation)
    if open_page:
        _open(model, evaluations)


def _configured(
    profile: str, bundle: str, text: str, limit: int, changes: Sequence[str], compute: Sequence[str]
) -> tuple[PipelineConfig, Compute]:
    """The config of a profile with what the options change; `--set` has the last word."""
    from nanochat import profiles
    from nanochat.config.data import DataConfig
    from nanochat.config.overrides import override

    chosen = profiles.profile(profile)
    config = chosen.config
    if limit < 0:
        raise BadConfig(f"`--limit` is {limit}.", hint="It is a number of questions; 0: all.")
    if text:
        config = config.model_copy(update={"data": DataConfig(source=text)})
    options = [f"core_bundle.source={bundle}"] * bool(bundle)
    if limit:
        options += [f"core_evaluation.limit={limit}", f"chat_evaluation.limit={limit}"]
        options += [f"text_evaluation.documents={limit}"]
    return override(config, [*options, *changes]), override(chosen.compute, compute)


def _evaluate_plain(
    reference: str, tasks: Sequence[str], config: PipelineConfig, compute: Compute, store: Store
) -> Sequence[Artifact]:
    from nanochat.console import Screen
    from nanochat.execution.local import run_local
    from nanochat.graphs import resolve
    from nanochat.graphs.evaluate import evaluate_any_model
    from nanochat.store.run_recording import record_run

    with Screen(out) as screen, record_run(store, "evaluate", config.canonical()) as record:
        found = resolve.any_model(store, reference, config.foreign)
        sources = resolve.evaluation_sources(store, config, found, tasks)
        graph = evaluate_any_model(config, found, sources)
        results = run_local(graph, store, compute, settings.home() / "runs", (record, screen))
        return [results[node] for node in graph.evaluations]


def _print(evaluation: Artifact) -> None:
    """The numbers of an evaluation with their intervals, and its name in the store."""
    from nanochat.console import number
    from nanochat.evaluation.examples import FILE_NAME, read_examples
    from nanochat.evaluation.tables import task_rows

    out.print(f"\n[bold]{escape(evaluation.stage)}[/]  {evaluation.stage}/{evaluation.key[:12]}")
    if (evaluation.path / FILE_NAME).exists():
        table = Table(
            "task", "right", "interval", "guess", "questions", "bits of the right answer", box=None, pad_edge=False
        )
        for name, row in task_rows(read_examples(evaluation.path)).items():
            table.add_row(
                escape(name), f"{row.accuracy:.1%}", f"{row.interval.low:.1%} – {row.interval.high:.1%}",
                f"{row.baseline:.0%}", f"{row.questions:,}", "" if row.gold_bits is None else f"{row.gold_bits:.2f}",
            )  # fmt: skip
        out.print(table)
    for name in ("core", "chatcore", "centered_accuracy", "bits_per_byte"):
        value, interval = evaluation.metrics.get(name), evaluation.metrics.get(f"{name}_interval")
        if value is not None:
            shown = f" ({number(interval[0])} – {number(interval[1])})" if interval else ""
            out.print(f"{name.replace('_', ' ')} {number(value)}{shown}")


def _open(model: str, evaluations: Sequence[Artifact]) -> None:
    """Writes the page of all questions and answers, and opens it."""
    import webbrowser

    from nanochat.evaluation.examples import FILE_NAME, read_examples
    from nanochat.report.questions import questions_page

    with_questions = [each for each in evaluations if (each.path / FILE_NAME).exists()]
    if not with_questions:
        raise BadConfig("This evaluation has no questions to show.", hint="Evaluate `core` or `chat`.")
    examples = [example for each in with_questions for example in read_examples(each.path)]
    names = ", ".join(f"{each.stage}/{each.key[:12]}" for each in with_questions)
    page = _page_file(with_questions)
    page.write_text(questions_page(model, names, examples), encoding="utf-8")
    out.print(f"\nquestions  {page}", markup=False)
    webbrowser.open(page.as_uri())


def _page_file(evaluations: Sequence[Artifact]) -> Path:
    folder = settings.home() / "pages"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"questions-{'-'.join(each.key[:8] for each in evaluations)}.html"
