"""A run, drawn in a terminal: a line a stage, a bar for what works at this moment."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.text import Text

from nanochat.errors import NanochatError

LOG = logging.getLogger("nanochat")
HEADLINES = (
    "validation_bits_per_byte", "bits_per_byte", "validation_loss", "chatcore", "train_rows", "train_tokens",
    "train_documents", "train_conversations", "vocab_size",
)  # fmt: skip
"""Metrics worth a place on a stage's line; the first that a stage has is shown."""


def headline(metrics: Mapping[str, Any]) -> str:
    """The most telling number of a stage: `validation bits per byte 0.912`."""
    for name in HEADLINES:
        if isinstance(value := metrics.get(name), int | float):
            return f"{name.replace('_', ' ')} {number(value)}"
    return ""


def number(value: float) -> str:
    """`12,345` · `0.9123`: a number a person reads."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def duration(seconds: float) -> str:
    """`0.4 s` · `12 s` · `3 min 20 s` · `2 h 05 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


@dataclass
class _Line:
    task: TaskID
    began: float = field(default_factory=time.monotonic)
    spoken: float = 0.0


class _Warnings(logging.Handler):
    """Prints the library's warnings between the lines of a run."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(Text.assemble(("  warning ", "yellow"), record.getMessage()), soft_wrap=True)


class Screen:
    """Draws a run. Thread-safe: mapped stages report from their own threads.

    On a terminal the running stages have a bar; elsewhere (a log file) a running stage speaks every 15 seconds.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._warnings = _Warnings(self.console)
        self._lock = threading.Lock()
        self._lines: dict[str, _Line] = {}
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<26}"),
            BarColumn(24),
            TextColumn("{task.fields[message]}", style="dim"),
            console=self.console,
            transient=True,
        )
        self.cached = 0
        self.computed = 0

    def __enter__(self) -> Screen:
        if self.console.is_terminal:
            self._bars.start()
        LOG.addHandler(self._warnings)
        return self

    def __exit__(self, *_: object) -> None:
        LOG.removeHandler(self._warnings)
        self._bars.stop()

    def say(self, text: str) -> None:
        self.console.print(text)

    def started(self, label: str) -> None:
        with self._lock:
            self._lines[label] = _Line(self._bars.add_task(label, total=None, visible=False, message=""))

    def progress(self, label: str, done: float, total: float, unit: str, message: str) -> None:
        with self._lock:
            line = self._lines.get(label)
            if line is None:
                return
            text = message or (f"{number(done)} of {number(total)} {unit}" if total else f"{number(done)} {unit}")
            self._bars.update(line.task, completed=done, total=total or None, message=text, visible=True)
            now = time.monotonic()
            if not self.console.is_terminal and now - max(line.spoken, line.began) > 15:
                line.spoken = now
                share = f" {100 * done / total:.0f}%" if total else ""
                self.console.print(f"  … {label}{share}: {text}")

    def ended(self, label: str, *, cached: bool, key: str, metrics: Mapping[str, Any]) -> None:
        with self._lock:
            line = self._lines.pop(label, None)
            seconds = 0.0
            if line is not None:
                self._bars.remove_task(line.task)
                seconds = time.monotonic() - line.began
            self.cached += cached
            self.computed += not cached
            state = Text("cached  ", style="cyan") if cached else Text("done    ", style="green")
            took = "" if cached else duration(seconds)
            text = Text.assemble(
                "  ", state, f"{label:<26} ", (f"{took:>12}", "bold"), f"  {key[:8]}  ", headline(metrics)
            )
            self.console.print(text, soft_wrap=True)

    def failed(self, error: NanochatError) -> None:
        self.console.print(Text.assemble(("error: ", "bold red"), error.message), soft_wrap=True)
        if error.hint:
            self.console.print(Text.assemble(("       ", ""), (error.hint, "yellow")), soft_wrap=True)
