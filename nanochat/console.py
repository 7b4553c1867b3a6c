"""A run, drawn in a terminal: a line a stage, a bar for what works at this moment."""

from __future__ import annotations

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
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.text import Text

from nanochat.errors import NanochatError

LOG = logging.getLogger("nanochat")
HEADLINES = (
    "validation_bits_per_byte", "bits_per_byte", "validation_loss", "chatcore", "train_rows", "train_tokens",
    "train_documents", "train_conversations", "vocab_size",
)  # fmt: skip
"""Metrics worth a place on a stage's line; the first that a stage has is shown."""


ONE_LINE = 1 << 16
"""Width of what is no terminal, in characters: a row of a table is one line, for `grep`."""

NARROWEST, USUAL, WIDEST = 20, 80, 1000
"""Columns: a terminal that claims fewer or more is taken to have as many as usual."""

IN_ASCII = {"→": "->", "←": "<-", "…": "...", "·": "-", "—": "-", "–": "-", "×": "x", "│": "|", "├": "|", "└": "`",
            "─": "-", "≥": ">=", "≤": "<=", "’": "'", "“": '"', "”": '"'}  # fmt: skip
"""How characters of ours look where the encoding does not have them; any other becomes `?`."""


class Console(RichConsole):
    """What commands print to. Where it is no terminal, no line is cut or broken; `pages` of text are, there too."""

    def __init__(self, *, stderr: bool = False, pages: bool = False) -> None:
        stream = sys.stderr if stderr else sys.stdout
        terminal = bool(stream and not stream.closed and stream.isatty())
        wide = ONE_LINE if not terminal and not pages else None
        super().__init__(highlight=False, soft_wrap=not pages, stderr=stderr, width=wide)
        if self.width < NARROWEST or (pages and self.width > WIDEST):  # `COLUMNS=0`: nothing would be printed
            self.width = USUAL

    def on_broken_pipe(self) -> None:
        """The reader has gone (`nanochat ls | head -1`): the command ends, in order."""
        self.quiet = True
        if threading.current_thread() is threading.main_thread():
            raise BrokenPipeError
        _thread.interrupt_main()  # a stage's thread must not fail by it


def settle_streams() -> None:
    """Makes the standard streams take whatever is printed or typed.

    Characters that the encoding of the output lacks are replaced, and so are bytes of the input that are no text. A
    stream that was closed (`>&-`) becomes an empty one: otherwise the next file that is opened would get its number,
    and what is printed.
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
    """What could not be printed is given up, so that Python does not try again, and complain, when it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


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

    def __init__(self, console: RichConsole) -> None:
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(Text.assemble(("  warning ", "yellow"), record.getMessage()), soft_wrap=True)


class Screen:
    """Draws a run. Thread-safe: mapped stages report from their own threads.

    On a terminal the running stages have a bar; elsewhere (a log file) a running stage speaks every 15 seconds.
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
        self.console.print(text, markup=False)

    def stage_failed(self, label: str) -> None:
        self.console.print(Text.assemble("  ", ("failed  ", "red"), label))

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
                self.console.print(f"  … {label}{share}: {text}", markup=False)

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
