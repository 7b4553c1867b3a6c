"""Pages in the Prefect UI (markdown artifacts): one per artifact of the store, and one per run.

Tables, links and `data:` images work in both of Prefect's UIs, mermaid only in the newer one.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast
from uuid import UUID

from prefect.artifacts import create_markdown_artifact

from flows.results_section import results, svg_image
from flows.site import prefect_environment
from flows.task_data import CallResult
from nanochat.console import duration, headline, number
from nanochat.lineage.ancestry import ancestors
from nanochat.lineage.picture import as_mermaid, as_svg, fold
from nanochat.store.artifacts import Artifact
from nanochat.store.manifest import Manifest, Name
from nanochat.store.store import Store

known_manifests: dict[Name, Manifest] = {}
"""Manifests that this process has read: each is read at most once."""

published: dict[str, UUID] = {}
"""Key of each page that this process has published → id of its newest version."""


def page_key(stage: str, key: str) -> str:
    """Key of an artifact's page: the same in every run, so that the versions of the page are its history."""
    return f"{stage.replace('_', '-')}-{key[:16]}"


def publish(store: Store, artifacts: Sequence[Artifact], summary: str, label: str) -> UUID:
    """Publishes the page of a task's artifacts, reused or not; returns its id. Several artifacts share one page."""
    manifest = artifacts[0].manifest
    key = page_key(manifest.stage, manifest.key)
    if len(artifacts) == 1:
        description = f"{manifest.stage} → {manifest.kind} `{manifest.key[:12]}`. {headline(manifest.metrics)}".strip()
        return put(key, page(store, manifest, summary, reused=artifacts[0].reused), description)
    return put(f"{key}-and-{len(artifacts) - 1}-more", _page_of_several(artifacts, summary, label), f"{label}.")


def remember(results: Iterable[CallResult]) -> None:
    """Makes later links point to the pages that other processes published."""
    for each in results:
        if each.page is not None:
            published[page_key(each.manifest.stage, each.manifest.key)] = each.page


def put(key: str, markdown: str, description: str) -> UUID:
    """Publishes a version of a page; later links point to it."""
    published[key] = cast(UUID, create_markdown_artifact(markdown, key=key, description=description))
    return published[key]


def _page_of_several(artifacts: Sequence[Artifact], summary: str, label: str) -> str:
    rows = ([f"`{each.key[:12]}`", f"`{each.digest[:12]}`", _state(each), headline(each.metrics)] for each in artifacts)
    shards = table("artifact digest state result", rows, len(artifacts), most=len(artifacts))
    return f"# {label}\n\n{summary}\n\n{shards}\n\n`nanochat show KEY` shows the manifest of one."


def _state(made: Artifact | CallResult) -> str:
    return "cached" if made.reused else f"done in {duration(made.manifest.producer.seconds)}"


def page(store: Store, manifest: Manifest, summary: str, *, reused: bool) -> str:
    """Markdown of an artifact: summary, results, lineage, inputs, metrics, files."""
    lineage = fold([manifest, *ancestors(store, manifest, known_manifests)])
    made = manifest.producer
    inputs = [
        [name, each.stage, link(each.stage, each.key), f"`{each.digest[:12]}`"]
        for name, references in manifest.inputs.items()
        for each in references
    ]
    files = [[f"`{entry.path}`", f"{entry.size:,}", f"`{entry.sha256[:16]}…`"] for entry in manifest.files]
    parts = [
        f"# {manifest.stage} → {manifest.kind}",
        summary,
        *results(store, manifest),
        f"**{'Reused in this run' if reused else 'Computed in this run'}.** Made {made.started:%Y-%m-%d %H:%M} UTC in "
        f"{duration(made.seconds)} on `{made.host}` by nanochat {made.code_version} {_commit(manifest)}.",
        f"- key `{manifest.key}`\n- digest `{manifest.digest}`\n- store {store.objects.root}",
        "## Lineage",
        svg_image("lineage", as_svg(lineage, here=manifest.stage)),
        "## Inputs",
        table("input stage artifact digest", inputs, len(inputs)),
        "## Metrics",
        table("metric value", _metric_rows(manifest.metrics), len(manifest.metrics)),
        "## Files",
        table("file bytes sha256", files, len(files)),
        "## Lineage, as mermaid",
        f"```mermaid\n{as_mermaid(lineage)}\n```",
    ]
    return "\n\n".join(part for part in parts if part)


def _commit(manifest: Manifest) -> str:
    made = manifest.producer
    if not made.git_commit:
        return ""
    return f"(commit `{made.git_commit[:10]}`{', with changes' if made.git_dirty else ''})"


def link(stage: str, key: str) -> str:
    return f"[{key[:12]}]({address(page_key(stage, key))})"


def address(page: str) -> str:
    """Relative address of a page in the current UI: of its newest version if known, else of the list of versions."""
    prefix = prefect_environment.ui_prefix()
    place = f"artifact/{published[page]}" if page in published else f"key/{page}"
    return f"{f'{prefix}/artifacts' if prefix else '..'}/{place}"


def _metric_rows(metrics: Mapping[str, Any]) -> Iterable[list[str]]:
    for name, value in metrics.items():
        if isinstance(value, int | float | str):
            yield [name.replace("_", " "), value if isinstance(value, str) else number(value)]


def table(heads: str, rows: Iterable[list[str]], count: int, most: int = 20) -> str:
    """Markdown table of the first `most` of `count` rows, or `none`. Spaces separate `heads`; `_` becomes a space."""
    names = [head.replace("_", " ") for head in heads.split()]
    lines = [f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]
    for position, row in enumerate(rows):
        if position == most:
            lines.append(f"| … and {count - most} more |{' |' * (len(names) - 1)}")
            break
        lines.append(f"| {' | '.join(cell.replace('|', '∣') for cell in row)} |")
    return "\n".join(lines) if len(lines) > 2 else "none"


def publish_run(name: str, run_id: str, outcome: Mapping[str, CallResult]) -> None:
    """Publishes the page of a run: artifact, state and result of each node, with links to the artifacts' pages."""
    rows = (
        [label, link(made.manifest.stage, made.manifest.key), _state(made), headline(made.manifest.metrics)]
        for label, made in outcome.items()
    )
    put(
        f"run-{run_id[:8]}",
        f"# {name}\n\n{table('stage artifact state result', rows, len(outcome), most=200)}\n\n"
        f"[All models so far]({address('models')})",
        "What this run computed and reused.",
    )
