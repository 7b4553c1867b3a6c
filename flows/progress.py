"""Progress in the Prefect UI: a log line every few seconds, and a bar for stages that train or evaluate."""

import contextvars
import logging
import threading
import time
from logging import Logger, LoggerAdapter
from typing import Any, cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging.handlers import APILogHandler

from nanochat.console import amount, duration, number
from nanochat.events import Event

LOG_EVERY_S = 5.0
LOGGED = ("loss", "validation_bits_per_byte", "validation_loss", "tokens_per_s", "mfu")
"""Metrics of training that a log line has; `metrics.jsonl` keeps all."""
DRAW_EVERY_S = 1.0


class TaskProgress:
    """A sink for one node of a task: a log line every few seconds and, with `bar`, a bar once a second."""

    def __init__(self, logger: Logger | LoggerAdapter[Any], *, bar: bool) -> None:
        self._logger, self._has_bar = logger, bar
        self._logged = time.monotonic()
        self._drawn = 0.0
        self._last_line = ""
        self._first: tuple[float, float] | None = None
        self._bar: UUID | None = None
        self._lock = threading.Lock()
        self._task_run = contextvars.copy_context()  # events may come from a thread without the context of the task run

    def __call__(self, event: Event) -> None:
        with self._lock:
            if event.kind in ("progress", "log"):
                self._show(event, time.monotonic())
            elif event.kind == "finished" and self._bar is not None:
                self._task_run.run(self._draw, 100.0, f"{event.label}: done in {duration(event.seconds)}")

    def _show(self, event: Event, now: float) -> None:
        if self._first is None or event.done < self._first[1]:
            self._first = (now, event.done)
        logs = now - self._logged >= LOG_EVERY_S
        draws = self._has_bar and event.total > 0 and now - self._drawn >= DRAW_EVERY_S
        line = self._line(event, now) if logs or draws else ""
        if logs and line != self._last_line:
            self._logged, self._last_line = now, line
            self._task_run.run(self._logger.info, "%s", line)
        if draws:
            self._drawn = now
            self._task_run.run(self._draw, min(100.0, 100 * event.done / event.total), f"{event.label}: {line}")

    def _line(self, event: Event, now: float) -> str:
        """For example `120 of 400 steps · loss 3.21 · tokens per s 12,345 · 1 min 20 s left`."""
        started, first = self._first or (now, event.done)
        metrics = [
            f"{name.replace('_', ' ')} {number(event.metrics[name])}" for name in LOGGED if name in event.metrics
        ]
        parts = [amount(event), *(metrics or [event.message])]
        if event.total and event.done > first:
            parts.append(f"{duration((now - started) * (event.total - event.done) / (event.done - first))} left")
        return " · ".join(part for part in parts if part)

    def _draw(self, percent: float, description: str) -> None:
        if self._bar is None:
            self._bar = cast(UUID, create_progress_artifact(percent, description=description))
        else:
            update_progress_artifact(self._bar, percent, description)


def _forward_library_logs() -> None:
    """Sends the log lines of `nanochat` (of ranks, of sources) to the log of the flow or task run that caused them."""
    handler = APILogHandler()
    handler.addFilter(lambda _: (TaskRunContext.get() or FlowRunContext.get()) is not None)
    library = logging.getLogger("nanochat")
    library.setLevel(logging.INFO)
    library.addHandler(handler)


_forward_library_logs()
