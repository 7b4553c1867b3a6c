"""The console: its streams, numbers as text, and the `Screen` that draws a run: a line a node, a bar while it runs."""

import _thread
import codecs
import io
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.text import Text

from nanochat.errors import NanochatError
from nanochat.events import Event

LOG = logging.getLogger("nanochat")
HEADLINES = (
    "validation_bits_per_byte", "bits_per_byte", "validation_loss", "core", "chatcore", "centered_accuracy",
    "train_rows", "train_tokens", "train_documents", "train_conversations", "vocab_size",
)  # fmt: skip
"""Metrics for the line of a node; the first that it has is shown."""


ONE_LINE = 1 << 16
"""Width in characters if the output is not a terminal: each row of a table is one line, for `grep`."""

PRINT_EVERY_S = 15.0

NARROWEST, USUAL, WIDEST = 20, 80, 1000
"""Columns. A terminal that reports fewer or more than these limits is taken to have the usual number."""

IN_ASCII = {"→": "->", "←": "<-", "…": "...", "·": "-", "—": "-", "–": "-", "×": "x", "│": "|", "├": "|", "└": "`",
            "─": "-", "≥": ">=", "≤": "<=", "’": "'", "“": '"', "”": '"'}  # fmt: skip
"""Replacements of our own characters in encodings without them; any other character becomes `?`."""


class Console(RichConsole):
    """The output of commands. Lines are wrapped on a terminal only; with `pages`, for longer texts, everywhere."""

    def __init__(self, *, stderr: bool = False, pages: bool = False) -> None:
        stream = sys.stderr if stderr else sys.stdout
        terminal = bool(stream and not stream.closed and stream.isatty())
        wide = ONE_LINE if not terminal and not pages else None
        super().__init__(highlight=False, soft_wrap=not pages, stderr=stderr, width=wide)
        if self.width < NARROWEST or (pages and self.width > WIDEST):  # `COLUMNS=0`: nothing would be printed
            self.width = USUAL

    def on_broken_pipe(self) -> None:
        """Ends the command in order when the reader has closed the pipe (`nanochat ls | head -1`)."""
        self.quiet = True
        if threading.current_thread() is threading.main_thread():
            raise BrokenPipeError
        _thread.interrupt_main()  # the thread of a stage must not fail because of it


def settle_streams() -> None:
    """Makes the standard streams accept any output and input.

    Characters that the encoding of the output lacks are replaced, and so are invalid bytes of the input. A closed
    stream (`>&-`) is opened on the null device: otherwise the next opened file would get its number and its output.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115, PTH123
    codecs.register_error("nanochat", _replace)
    for stream, errors in ((sys.stdin, "replace"), (sys.stdout, "nanochat"), (sys.stderr, "nanochat")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(IN_ASCII.get(each, "?") for each in error.object[error.start : error.end]), error.end


def drop_unwritten() -> None:
    """Drops output that could not be printed: otherwise Python tries again when it ends, and prints an error."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def headline(metrics: Mapping[str, Any]) -> str:
    """The main metric of a stage: `validation bits per byte 0.912`."""
    for name in HEADLINES:
        if isinstance(value := metrics.get(name), int | float):
            return f"{name.replace('_', ' ')} {number(value)}"
    return ""


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def number(value: float) -> str:
    """A number for people: `12,345` · `0.9123`."""
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
    bar: TaskID
    printed: float = field(default_factory=time.monotonic)


def amount(event: Event) -> str:
    """`120 of 400 steps`; empty for a log event without a message."""
    if event.total:
        return f"{number(event.done)} of {number(event.total)} {event.unit}"
    return f"{number(event.done)} {event.unit}" if event.unit else ""


class _Warnings(logging.Handler):
    """Prints the library's warnings between the lines of a run."""

    def __init__(self, console: RichConsole) -> None:
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(Text.assemble(("  warning ", "yellow"), record.getMessage()), soft_wrap=True)


class Screen:
    """A sink that draws a run. Thread-safe: nodes report from their own threads.

    On a terminal each running node has a bar, and so have all queued nodes together; elsewhere (a log file) a running
    node has a line every 15 seconds.
    """

    def __init__(self, console: RichConsole | None = None) -> None:
        self.console = console or Console()
        self._warnings = _Warnings(self.console)
        self._lock = threading.Lock()
        self._lines: dict[str, _Line] = {}
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<26}", markup=False),
            BarColumn(24),
            TextColumn("{task.fields[message]}", style="dim", markup=False),
            console=self.console,
            transient=True,
        )
        self._queued = 0
        self._all = self._bars.add_task("all nodes", total=None, visible=False, message="")
        self.cached = 0
        self.computed = 0

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._bars.start()
        LOG.addHandler(self._warnings)
        return self

    def __exit__(self, *_: object) -> None:
        LOG.removeHandler(self._warnings)
        self._bars.stop()

    def print(self, text: str) -> None:
        """Prints a line between those of the run."""
        self.console.print(text, markup=False)

    def __call__(self, event: Event) -> None:
        with self._lock:
            match event.kind:
                case "queued":
                    self._queued += 1
                    self._bars.update(self._all, total=self._queued, visible=True)
                case "started":
                    self._lines[event.label] = _Line(
                        self._bars.add_task(event.label, total=None, visible=False, message="")
                    )
                case "progress" | "log":
                    self._draw(event)
                case "finished":
                    self._remove(event)
                    self._finish(event)
                case "failed":
                    self._remove(event)
                    self.console.print(Text.assemble("  ", ("failed  ", "red"), event.label))

    def _draw(self, event: Event) -> None:
        line = self._lines.get(event.label)
        text = event.message or amount(event)
        if line is None or not text:
            return
        self._bars.update(line.bar, completed=event.done, total=event.total or None, message=text, visible=True)
        now = time.monotonic()
        if not self.console.is_terminal and now - line.printed > PRINT_EVERY_S:
            line.printed = now
            share = f" {100 * event.done / event.total:.0f}%" if event.total else ""
            self.console.print(f"  … {event.label}{share}: {text}", markup=False)

    def _remove(self, event: Event) -> None:
        if (line := self._lines.pop(event.label, None)) is not None:
            self._bars.remove_task(line.bar)

    def _finish(self, event: Event) -> None:
        self.cached += event.cached
        self.computed += not event.cached
        done = self.cached + self.computed
        self._bars.update(self._all, completed=done, message=f"{done} of {self._queued}")
        state = Text("cached  ", style="cyan") if event.cached else Text("done    ", style="green")
        took = "" if event.cached else duration(event.seconds)
        text = Text.assemble(
            "  ", state, f"{event.label:<26} ", (f"{took:>12}", "bold"), f"  {event.key[:8]}  ", headline(event.metrics)
        )
        self.console.print(text, soft_wrap=True)

    def failed(self, error: NanochatError) -> None:
        self.console.print(Text.assemble(("error: ", "bold red"), error.message), soft_wrap=True)
        if error.hint:
            self.console.print(Text.assemble(("       ", ""), (error.hint, "yellow")), soft_wrap=True)
