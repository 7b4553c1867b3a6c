"""Progress of an evaluation: the task, the questions that are done, their rate, and the time that is left."""

from __future__ import annotations

import time

from nanochat.console import duration
from nanochat.workers.job import Job
from nanochat.workers.ranks import World, raise_if_terminated

WRITE_EVERY_S = 1.0


class EvaluationProgress:
    """Writes progress to `metrics.jsonl`, from the first rank: at most once a second, and whenever the task changes."""

    def __init__(self, job: Job, world: World, unit: str = "questions") -> None:
        self._job, self._writes, self._unit = job, world.is_first, unit
        self._began: tuple[int, float] | None = None
        """What an earlier attempt had done, and when this one began."""
        self._task, self._written = "", -WRITE_EVERY_S

    def say(self, message: str) -> None:
        """What happens before the first question."""
        raise_if_terminated()
        if self._writes:
            self._job.event(0, 0, "", message)

    def __call__(self, done: int, total: int, task: str = "") -> None:
        """Receives the numbers of answered and of all questions. Raises `Preempted` if this rank received a TERM."""
        raise_if_terminated()
        now = time.monotonic()
        if self._began is None:
            self._began = done, now
        if not self._writes or (task == self._task and done < total and now - self._written < WRITE_EVERY_S):
            return
        self._task, self._written = task, now
        self._job.event(done, total, self._unit, self._message(done, total, task, now))

    def _message(self, done: int, total: int, task: str, now: float) -> str:
        before, began = self._began or (done, now)
        parts = [task] * bool(task)
        if done > before and now > began:
            rate = (done - before) / (now - began)
            parts += [f"{rate:,.1f} {self._unit}/s", f"{duration((total - done) / rate)} left"]
        return " · ".join(parts)
