"""Ends a rank that makes no progress, with an error that names the line where it hangs.

When a rank dies, torchrun ends the others; when one hangs, they would wait for it forever. So each rank has a watchdog,
which ends it when it makes no step for ten times its longest step so far, and at least for `limit_s`. The time before
the first heartbeat (start, compilation) and blocks under `paused` (evaluation, waiting for the store) do not count.
"""

import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nanochat.errors import Hung
from nanochat.workers.job import EXIT_FAILED, Job, write_error

LONGEST_STEPS = 10
POLL_S = 0.5
WAIT_FOR_OTHERS_S = 2.0
"""A rank that waits in a collective reports later than the rank that it waits for: only the first error is kept."""


class Watchdog:
    """A thread that monitors the heartbeats of this rank's main thread. With `limit_s` 0 there is no thread."""

    def __init__(self, job: Job, rank: int, limit_s: float) -> None:
        self._folder, self._rank, self._limit_s = Path(job.folder), rank, limit_s
        self._main = threading.get_ident()
        self._last: float | None = None
        self._longest_s = 0.0
        self._stopped = threading.Event()
        if limit_s:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def heartbeat(self) -> None:
        """Reports progress; the next heartbeat must follow in time."""
        now = time.monotonic()
        if self._last is not None:
            self._longest_s = max(self._longest_s, now - self._last)
        self._last = now

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Does not count the time of the block."""
        watching, self._last = self._last is not None, None
        yield
        if watching:
            self._last = time.monotonic()

    def stop(self) -> None:
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(POLL_S):
            last, allowed_s = self._last, max(self._limit_s, LONGEST_STEPS * self._longest_s)
            if last is not None and time.monotonic() - last > allowed_s:
                self._end_process(allowed_s)

    def _end_process(self, allowed_s: float) -> None:
        stack = traceback.extract_stack(sys._current_frames()[self._main])
        if any("torch/distributed" in frame.filename for frame in stack):
            time.sleep(WAIT_FOR_OTHERS_S)
        sys.stderr.write(f"hangs:\n{''.join(traceback.format_list(stack))}")
        here = stack[-1]
        error = Hung(
            f"Rank {self._rank} made no progress for {allowed_s:.0f} s; it is in "
            f"`{here.filename.rpartition('/')[2]}` line {here.lineno}: `{here.line}`.",
            hint="The log has its stack; the same run resumes from its last checkpoint, if any. "
            "`--compute supervision.watchdog_timeout_s=…` allows more.",
        )
        write_error(self._folder, error.to_json())
        os._exit(EXIT_FAILED)
