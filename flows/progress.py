"""How far a stage is, in the UI: a log line now and then and, for what trains, what the ranks write, and a bar."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Mapping
from logging import Logger, LoggerAdapter
from typing import Any, cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging.handlers import APILogHandler

from nanochat.console import duration, number
from nanochat.progress import Progress

LOG_EVERY_S = 5.0
SAID = ("loss", "validation_bits_per_byte", "validation_loss", "tokens_per_s", "mfu")
"""Of what training measures; `metrics.jsonl` keeps all of it, and a line in the log is to be read."""
DRAW_EVERY_S = 1.0


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
        told = {name: metrics[name] for name in SAID if name in metrics}
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


def _hand_on_what_the_library_logs() -> None:
    """Into the log of the run that has called it: lines of ranks, and what reading data leaves out."""
    handler = APILogHandler()
    handler.addFilter(lambda _: (TaskRunContext.get() or FlowRunContext.get()) is not None)
    library = logging.getLogger("nanochat")
    library.setLevel(logging.INFO)
    library.addHandler(handler)


_hand_on_what_the_library_logs()
