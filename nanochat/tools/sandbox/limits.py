"""What a program may use, and how strongly it is confined."""

from dataclasses import dataclass
from typing import Literal

Mode = Literal["full", "no namespaces", "rlimits only"]
"""How programs are confined; `docs/sandbox.md` has what each mode enforces."""
MODES: tuple[Mode, ...] = ("full", "no namespaces", "rlimits only")
"""The strongest first. All parts of a mode work, or the mode is not used."""


@dataclass(frozen=True)
class Limits:
    """Limits of one program. Its tests, in a process of their own, have the same ones."""

    time_s: float = 5.0
    """Wall-clock time, of the program and its tests together."""
    memory_bytes: int = 512 << 20
    """Address space of the process."""
    output_bytes: int = 1 << 20
    """What it may print, to standard output and error together."""
    files_bytes: int = 16 << 20
    """Size of its `/tmp`, which is in memory."""
    threads: int = 16
