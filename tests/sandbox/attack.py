"""An attack: a program, what it begins with, and what must come of it."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import dedent

from nanochat.tools.sandbox.limits import Limits

PREFIX = dedent("""
    import ctypes, os, sys
    libc = ctypes.CDLL(None, use_errno=True)

    def refused(*attempts):
        for number, attempt in enumerate(attempts):
            try:
                found = attempt()
            except (OSError, ImportError, RuntimeError, ValueError):
                continue
            if found != -1 or ctypes.get_errno() not in (1, 13, 38):  # of a C function: not permitted, or not there
                print("attempt", number, "worked:", found, ctypes.get_errno())
        print("refused")

    def system_call(number, *arguments):
        ctypes.set_errno(0)
        return libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))
""")
X86_64 = "if os.uname().machine != 'x86_64': print('refused'); raise SystemExit\n"
"""For attacks that are written with the system call numbers of one machine."""


@dataclass(frozen=True)
class Attack:
    """A program, and what must come of it."""

    name: str
    text: str
    ending: str = "ended"
    output: str | None = "refused\n"
    """None: whatever it is."""
    failed: bool = False
    """Whether it ends with an error or a signal."""
    only_full: bool = False
    """Whether only the mode `full` refuses it."""

    @property
    def limits(self) -> Limits:
        """A short time for what must be stopped; enough for the rest, on a busy machine."""
        return Limits(time_s=0.5 if self.ending == "time limit" else 60)

    @property
    def program(self) -> str:
        return PREFIX + dedent(self.text)
