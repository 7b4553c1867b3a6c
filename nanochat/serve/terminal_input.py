r'''What the user of the chat enters: a line, several lines, or lines that are pasted.

    Tell me a story \
    about a lighthouse.            a line that ends with a backslash goes on in the next one
    """Spell these words:
    lantern
    harbour"""                     a block ends with three quotes

Text that is pasted into a terminal is one entry, too.
'''

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

BLOCK = '"""'
MORE = "…    "
HISTORY_LINES = 1000


class Entry(NamedTuple):
    """What the user entered at once."""

    text: str
    is_block: bool
    """Whether it was in quotes, which makes a `/command` ordinary text."""


def read_entry(read_line: Callable[[str], str], prompt: str) -> Entry:
    """Reads one entry. Raises `EOFError` at the end of the input; an unfinished entry ends there."""
    line = read_line(prompt)
    is_block = line.lstrip().startswith(BLOCK)
    lines = [line.lstrip().removeprefix(BLOCK) if is_block else line]
    with suppress(EOFError):
        if is_block:
            while not lines[-1].rstrip().endswith(BLOCK):
                lines.append(read_line(MORE))
        else:
            while lines[-1].endswith("\\"):
                lines[-1] = lines[-1][:-1]
                lines.append(read_line(MORE))
    text = "\n".join(lines).strip()
    return Entry(text.removesuffix(BLOCK).rstrip() if is_block else text, is_block)


def read_piped_line(_: str) -> str:
    """The next line of the standard input. Raises `EOFError`."""
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.removesuffix("\n").removesuffix("\r")


@contextmanager
def history(path: Path) -> Generator[None]:
    """Lets `input` edit lines, paste several at once, and recall those of earlier chats from a file of this user."""
    try:
        import readline  # noqa: PLC0415 - a Python without it has no editing
    except ImportError:
        yield
        return
    readline.parse_and_bind("set enable-bracketed-paste on")
    with suppress(OSError):
        readline.read_history_file(path)
    try:
        yield
    finally:
        readline.set_history_length(HISTORY_LINES)
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            readline.write_history_file(path)
