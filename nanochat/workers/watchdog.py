"""A rank that hangs is ended, and says where it stood: the others would wait for it without end.

torchrun ends the ranks that are left when one dies; one that only stands still dies by its own watch. The time allowed
follows from the run itself: ten times the longest pause so far, and never less than `limit_s`. What comes before the
first beat (starting, compiling) is not watched, nor what rests (evaluation, waiting for the store).
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from nanochat.errors import Hung
from nanochat.workers.job import Job
from nanochat.workers.ranks import EXIT_FAILED

TIMES_THE_LONGEST = 10
LOOK_EVERY_S = 0.5
AFTER_YOU_S = 2.0
"""A rank that waits for others lets the one that hangs speak first: the first error is the one that is told."""


class Watchdog:
    """The sign of life of this rank's main thread. `limit_s` 0 watches nothing."""

    def __init__(self, job: Job, rank: int, limit_s: float) -> None:
        self._job, self._rank, self._limit_s = job, rank, limit_s
        self._main = threading.get_ident()
        self._last: float | None = None
        self._longest_s = 0.0
        self._ending = threading.Event()
        if limit_s:
            threading.Thread(target=self._watch, name="pulse", daemon=True).start()

    def beat(self) -> None:
        """It gets on; from now on it has to say so again in time."""
        now = time.monotonic()
        if self._last is not None:
            self._longest_s = max(self._longest_s, now - self._last)
        self._last = now

    @contextmanager
    def resting(self) -> Iterator[None]:
        """What may take as long as it takes."""
        beating, self._last = self._last is not None, None
        yield
        if beating:
            self._last = time.monotonic()

    def end(self) -> None:
        """Nothing is watched any more."""
        self._ending.set()

    def _watch(self) -> None:
        while not self._ending.wait(LOOK_EVERY_S):
            last, allowed_s = self._last, max(self._limit_s, TIMES_THE_LONGEST * self._longest_s)
            if last is not None and time.monotonic() - last > allowed_s:
                self._end_all(allowed_s)

    def _end_all(self, allowed_s: float) -> None:
        stack = traceback.extract_stack(sys._current_frames()[self._main])
        if any("torch/distributed" in frame.filename for frame in stack):
            time.sleep(AFTER_YOU_S)
        sys.stderr.write(f"hangs:\n{''.join(traceback.format_list(stack))}")
        here = stack[-1]
        error = Hung(
            f"Rank {self._rank} has not got on for {allowed_s:.0f} s; it stands in "
            f"`{here.filename.rpartition('/')[2]}` line {here.lineno}: `{here.line}`.",
            hint="The log has its stack; training goes on from its checkpoint. "
            "`--compute supervision.watchdog_timeout_s=…` allows more.",
        )
        self._job.write_error(error.to_json())
        os._exit(EXIT_FAILED)
