"""Follows the log file of the ranks, and passes their lines to the logger `nanochat.workers.ranks`, rate-limited.

torchrun puts `[rank 3] ` before each line of rank 3. The log file has all lines.
"""

import logging
import re
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from signal import SIGTERM, strsignal

MAX_LINES, PERIOD_S = 25, 5.0
LINE_PREFIX = "[rank ${rank}] "
"""The template for torchrun."""
RANK = re.compile(r"\[rank \d+\] ")
ERROR = re.compile(r"(?P<rank>\[rank \d+\] )(\[rank\d+\]: *)?(?P<error>[\w.]*(Error|Exception)\b.*)")
"""The line of a Python traceback that names the error; torch puts another rank prefix before it."""
LOG = logging.getLogger("nanochat.workers.ranks")


class Tail:
    """Reads the complete lines of a file that grows."""

    def __init__(self, path: Path) -> None:
        self._path, self._position, self._rest = path, 0, b""

    def lines(self) -> list[str]:
        """The lines written since the last call; empty while the file does not exist."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._position)
            self._rest += file.read()
            self._position = file.tell()
        *lines, self._rest = self._rest.split(b"\n")
        return [line.decode(errors="replace") for line in lines]


class RankLog:
    """Logs at most `MAX_LINES` lines of each rank per `PERIOD_S` seconds, and the number of the others."""

    def __init__(self, path: Path) -> None:
        self._path, self._tail = path, Tail(path)
        self._since, self._logged, self._omitted = time.monotonic(), Counter[str](), 0

    def forward(self, *, last: bool = False) -> None:
        """Logs the lines written since the last call."""
        if time.monotonic() - self._since > PERIOD_S:
            self._start_period()
        for line in self._tail.lines():
            if found := RANK.match(line):
                self._logged[found[0]] += 1
                if self._logged[found[0]] <= MAX_LINES:
                    LOG.info("%s", line)
                else:
                    self._omitted += 1
        if last:
            self._start_period()

    def _start_period(self) -> None:
        if self._omitted:
            LOG.info("%d more lines of the ranks are in `%s`", self._omitted, self._path)
        self._since, self._omitted = time.monotonic(), 0
        self._logged.clear()


def describe_failure(log: str, exit_codes: Mapping[str, int]) -> str:
    """Why the ranks failed, from the text of their log and the exit codes of the failed ranks.

    In order of preference: a signal (except TERM, which torchrun sends to the remaining ranks); the first line of a
    rank that names an error, since it causes those of other ranks; the last line of the ranks; an exit code; and, if
    torchrun itself failed, the last line of the log.
    """
    died = {rank: -code for rank, code in exit_codes.items() if code < 0 and code != -SIGTERM}
    signals = [f"rank {rank}: {strsignal(number)} (signal {number})" for rank, number in died.items()]
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    of_ranks = [line for line in lines if RANK.match(line)]
    errors = [f"{found['rank']}{found['error']}" for line in of_ranks if (found := ERROR.match(line))]
    codes = [f"rank {rank}: exit code {code}" for rank, code in exit_codes.items()]
    return (signals or errors[:1] or of_ranks[-1:] or codes or lines[-1:] or ["its log is empty"])[0][:300].rstrip(".")
