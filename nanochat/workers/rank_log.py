"""Follows the log of the ranks and passes it to the logger `nanochat.workers.ranks`, at a rate a person can read.

torchrun puts `[rank 3] ` before each line of rank 3. Nobody listens to the logger by default; the log file has it all.
"""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from pathlib import Path

MOST_LINES, IN_S = 25, 5.0
PREFIX = "[rank ${rank}] "
"""As torchrun is told it."""
OF_RANK = re.compile(r"\[rank \d+\] ")
AN_ERROR = re.compile(r"(?P<rank>\[rank \d+\] )?(\[rank\d+\]: *)?(?P<said>[\w.]*(Error|Exception)\b.*)")
"""Of Python's tracebacks the line that says what happened; torch puts a rank of its own before it."""
REPORT = re.compile(r"^\S+ .*torch/distributed/elastic/.*failed \(exitcode", re.MULTILINE)
"""Where torchrun's own report begins."""
LOG = logging.getLogger("nanochat.workers.ranks")


class Tail:
    """Whole lines of a file that grows."""

    def __init__(self, path: Path) -> None:
        self._path, self._position, self._rest = path, 0, b""

    def lines(self) -> list[str]:
        """Those that have come since the last call; none while there is no file."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._position)
            self._rest += file.read()
            self._position = file.tell()
        *lines, self._rest = self._rest.split(b"\n")
        return [line.decode(errors="replace") for line in lines]


class RankLog:
    """The ranks' lines of a log file: in `IN_S` seconds `MOST_LINES` of each, and of the others the number."""

    def __init__(self, path: Path) -> None:
        self._path, self._tail = path, Tail(path)
        self._since, self._passed, self._left_out = time.monotonic(), Counter[str](), 0

    def hand_on(self, *, last: bool = False) -> None:
        """What has come since the last call."""
        if time.monotonic() - self._since > IN_S:
            self._count_anew()
        for line in self._tail.lines():
            if found := OF_RANK.match(line):
                self._passed[found[0]] += 1
                if self._passed[found[0]] <= MOST_LINES:
                    LOG.info("%s", line)
                else:
                    self._left_out += 1
        if last:
            self._count_anew()

    def _count_anew(self) -> None:
        if self._left_out:
            LOG.info("%d more lines of the ranks are in `%s`", self._left_out, self._path)
        self._since, self._left_out = time.monotonic(), 0
        self._passed.clear()


def first_words(log: str) -> str:
    """What went wrong first: the first line of a rank that names an error, for the others are its echoes.

    Without one, the last line that comes before torchrun's report.
    """
    lines = [line.strip() for line in log.splitlines() if OF_RANK.match(line)]
    if not lines:
        lines = [line.strip() for line in REPORT.split(log, maxsplit=1)[0].splitlines() if line.strip()]
    errors = [f"{found['rank'] or ''}{found['said']}" for line in lines if (found := AN_ERROR.match(line))]
    return (errors[:1] or lines[-1:] or ["it said nothing"])[0][:300].rstrip(".")
