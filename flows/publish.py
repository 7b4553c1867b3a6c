"""What the Prefect UI shows of a stage: an artifact's page, a training's progress, a run's table.

Both of Prefect's UIs are served: tables, links and `data:` images work in both, mermaid only in the newer.
"""

from __future__ import annotations

import base64
import contextvars
import threading
import time
from collections.abc import Iterable, Mapping
from logging import Logger, LoggerAdapter
from typing import Any, cast
from uuid import UUID

from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact

from nanochat import settings
from nanochat.console import duration, headline, number
from nanochat.progress import Progress
from nanochat.store.artifacts import Artifact, Store
from nanochat.store.lineage import ancestors
from nanochat.store.manifest import InputRef, Manifest, Name
from nanochat.store.picture import as_mermaid, as_svg, fold

LOG_EVERY_S = 5.0
UNSAID = {"time", "seconds", "memory_bytes", "lr_multiplier", "smoothed_loss", "tokens", "epoch"}
"""Kept in `metrics.jsonl`; a line in the log is to be read."""
DRAW_EVERY_S = 1.0

met: dict[Name, Manifest] = {}
"""Manifests this process has met: each is read at most once."""


def page_key(stage: str, key: str) -> str:
    """Name of an artifact's page: the same in every run that makes or reuses it, so that the page is its history."""
    return f"{stage.replace('_', '-')}-{key[:16]}"


def publish(store: Store, artifact: Artifact, summary: str) -> None:
    """The artifact's page in the UI, on hits too."""
    manifest = artifact.manifest
    create_markdown_artifact(
        page(store, manifest, summary, reused=artifact.reused),
        key=page_key(manifest.stage, manifest.key),
        description=f"{manifest.stage} → {manifest.kind} `{manifest.key[:12]}`. {headline(manifest.metrics)}".strip(),
    )


def page(store: Store, manifest: Manifest, summary: str, *, reused: bool) -> str:
    """Markdown: what it is, lineage, inputs, metrics, files."""
    lineage = fold([manifest, *ancestors(store, manifest, met)])
    picture = base64.b64encode(as_svg(lineage, here=manifest.stage).encode()).decode()
    made = manifest.producer
    rows = [(name, reference) for name, references in manifest.inputs.items() for reference in references]
    parts = [
        f"# {manifest.stage} → {manifest.kind}",
        summary,
        f"**{'Reused in this run' if reused else 'Computed in this run'}.** Made {made.started:%Y-%m-%d %H:%M} UTC in "
        f"{duration(made.seconds)} on `{made.host}` by nanochat {made.code_version} {_commit(manifest)}.",
        f"- key `{manifest.key}`\n- digest `{manifest.digest}`\n- store {store.objects.root}",
        "## Lineage",
        f"![lineage](data:image/svg+xml;base64,{picture})",
        "## Inputs",
        table("input stage artifact digest", (_input_row(name, reference) for name, reference in rows), len(rows)),
        "## Metrics",
        table("metric value", _metric_rows(manifest.metrics), len(manifest.metrics)),
        "## Files",
        table(
            "file bytes sha256",
            ([f"`{entry.path}`", f"{entry.size:,}", f"`{entry.sha256[:16]}…`"] for entry in manifest.files),
            len(manifest.files),
        ),
        "## Lineage, as mermaid",
        f"```mermaid\n{as_mermaid(lineage)}\n```",
    ]
    return "\n\n".join(part for part in parts if part)


def _commit(manifest: Manifest) -> str:
    made = manifest.producer
    if not made.git_commit:
        return ""
    return f"(commit `{made.git_commit[:10]}`{', with changes' if made.git_dirty else ''})"


def _input_row(name: str, reference: InputRef) -> list[str]:
    return [name, reference.stage, link(reference.stage, reference.key), f"`{reference.digest[:12]}`"]


def link(stage: str, key: str) -> str:
    """A link to an artifact's page."""
    return f"[{key[:12]}]({address(page_key(stage, key))})"


def address(page: str) -> str:
    """Where a page is, from another one, in the face of the UI that one is in."""
    prefix = settings.prefect_ui_prefix()
    return f"{f'{prefix}/artifacts' if prefix else '..'}/key/{page}"


def _metric_rows(metrics: Mapping[str, Any]) -> Iterable[list[str]]:
    for name, value in metrics.items():
        if isinstance(value, int | float | str):
            yield [name.replace("_", " "), value if isinstance(value, str) else number(value)]


def table(heads: str, rows: Iterable[list[str]], count: int, most: int = 20) -> str:
    """Markdown of so many rows, of which the first `most` are shown; `none` if there is none."""
    names = heads.split()
    lines = [f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]
    for position, row in enumerate(rows):
        if position == most:
            lines.append(f"| … and {count - most} more |{' |' * (len(names) - 1)}")
            break
        lines.append(f"| {' | '.join(cell.replace('|', '∣') for cell in row)} |")
    return "\n".join(lines) if len(lines) > 2 else "none"


def publish_run(name: str, run_id: str, outcome: Mapping[str, tuple[Manifest, bool]]) -> None:
    """The run's own page: label → manifest and whether it was reused, with links to the artifacts' pages."""
    rows = (
        [
            label,
            link(manifest.stage, manifest.key),
            "cached" if reused else f"done in {duration(manifest.producer.seconds)}",
            headline(manifest.metrics),
        ]
        for label, (manifest, reused) in outcome.items()
    )
    create_markdown_artifact(
        f"# {name}\n\n{table('stage artifact state result', rows, len(outcome), most=200)}\n\n"
        f"[All models so far]({address('models')})",
        key=f"run-{run_id}",
        description="What this run made, and what it reused.",
    )


class TaskProgress:
    """A stage's progress in the UI: a log line every few seconds and, where it is `drawn`, a bar once a second.

    Passes every call on to the watch, which may raise to stop the stage.
    """

    def __init__(self, label: str, logger: Logger | LoggerAdapter[Any], watch: Progress, *, drawn: bool) -> None:
        self._label, self._logger, self._watch, self._drawn = label, logger, watch, drawn
        self._began = self._logged = time.monotonic()
        self._drew = 0.0
        self._said = ""
        self._first: tuple[float, float] | None = None
        self._bar: UUID | None = None
        self._lock = threading.Lock()
        self._task_run = contextvars.copy_context()  # progress may come from a thread that knows of no task run

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def __call__(
        self, done: float, total: float, unit: str, message: str = "", metrics: Mapping[str, float] | None = None
    ) -> None:
        self._watch(done, total, unit, message, metrics)
        now = time.monotonic()
        with self._lock:
            if self._first is None or done < self._first[1]:
                self._first = (now, done)
            logs = now - self._logged >= LOG_EVERY_S
            draws = self._drawn and total > 0 and now - self._drew >= DRAW_EVERY_S
            line = self.line(now, done, total, unit, message, metrics or {}) if logs or draws else ""
            if logs and line != self._said:
                self._logged, self._said = now, line
                self._task_run.run(self._logger.info, "%s", line)
            if draws:
                self._drew = now
                self._task_run.run(self._draw, min(100.0, 100 * done / total), line)

    def line(self, now: float, done: float, total: float, unit: str, message: str, metrics: Mapping[str, float]) -> str:
        """`120 of 400 steps · loss 3.21 · tokens per s 12,345 · 1 min 20 s left`."""
        began, first = self._first or (now, done)
        parts = [f"{number(done)} of {number(total)} {unit}" if total else f"{number(done)} {unit}" if unit else ""]
        told = {name: value for name, value in metrics.items() if name not in UNSAID}
        parts += [f"{name.replace('_', ' ')} {number(value)}" for name, value in told.items()] or [message]
        if total and done > first:
            parts.append(f"{duration((now - began) * (total - done) / (done - first))} left")
        return " · ".join(part for part in parts if part)

    def ended(self) -> None:
        """Fills the bar."""
        with self._lock:
            if self._bar is not None:
                self._task_run.run(self._draw, 100.0, f"done in {duration(self.seconds)}")

    def _draw(self, percent: float, line: str) -> None:
        description = f"{self._label}: {line}"
        if self._bar is None:
            self._bar = cast(UUID, create_progress_artifact(percent, description=description))
        else:
            update_progress_artifact(self._bar, percent, description)
