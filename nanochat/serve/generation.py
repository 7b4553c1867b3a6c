"""The answers to one HTTP request: passes what an engine's thread generates to the event loop.

    generation = replica.submit(requests)
    await generation.accepted()                 # raises what the engine refuses
    async for step in generation:               # deltas since the last time
        for prompt, delta in step: …
    generation.cancel()                         # frees its slots; nothing happens if it is finished

The deltas of the first step come at once, later ones together with others of the same `interval_s`: a write to a socket
costs more than a step of a small model. What waits here for a slow reader is at most the whole answers.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence

from nanochat.errors import NanochatError
from nanochat.inference.request import Delta, Request

Step = list[tuple[int, Delta]]
"""Deltas, each with the number of its prompt in the HTTP request."""


class EngineFailed(NanochatError):
    """The engine ended with an error while it generated."""

    transient = True


class Generation:
    """One or more prompts in one engine. All methods belong to the event loop's thread."""

    def __init__(self, requests: Sequence[Request], on_cancel: Callable[[Generation], None], interval_s: float) -> None:
        """`interval_s` is the least time between two steps for the reader; only the first and the last come at once."""
        self.requests = requests
        self.answers = sum(request.answers for request in requests)
        self.finished = False
        """Whether the engine has nothing more to do for it."""
        self.first_delta_at: float | None = None
        """Time of the first delta, in seconds of `time.monotonic`."""
        self._unfinished_answers = self.answers
        self._on_cancel = on_cancel
        self._accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._accepted.add_done_callback(_retrieve)
        self._pending: Step = []
        self._error: NanochatError | None = None
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._interval_s = interval_s
        self._next_at = -math.inf
        """When the reader may get more, in seconds of `time.monotonic`."""
        self._timer: asyncio.TimerHandle | None = None

    async def accepted(self) -> None:
        """Waits until the engine has taken all prompts. Raises its error if it refuses one."""
        await asyncio.shield(self._accepted)

    async def __aiter__(self) -> AsyncIterator[Step]:
        while True:
            await self._changed.wait()
            self._changed.clear()
            self._next_at = time.monotonic() + self._interval_s
            step, self._pending = self._pending, []
            if step:
                yield step
            if self._error is not None:
                raise self._error
            if self.finished and not self._pending:
                return

    def cancel(self) -> None:
        """The client is gone, or wants no more."""
        if not self.finished:
            self.finished = True
            self._on_cancel(self)
            if self._timer is not None:
                self._timer.cancel()

    # --- called for the engine's thread -------------------------------------------------------------------------------

    def accept(self) -> None:
        """The engine has taken all prompts."""
        if not self._accepted.done():
            self._accepted.set_result(None)

    def append(self, prompt: int, delta: Delta) -> None:
        """Adds a delta."""
        if self.finished:
            return
        now = time.monotonic()
        if self.first_delta_at is None:
            self.first_delta_at = now
        self._pending.append((prompt, delta))
        if delta.finish is not None:
            self._unfinished_answers -= 1
            self.finished = self._unfinished_answers == 0
        if self.finished or now >= self._next_at:
            self._wake()
        elif self._timer is None:
            self._timer = self._loop.call_later(self._next_at - now, self._wake)

    def _wake(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._changed.set()

    def fail(self, error: NanochatError) -> None:
        """The engine cannot go on with it."""
        self.finished = True
        self._error = error
        if not self._accepted.done():
            self._accepted.set_exception(error)
        self._wake()


def _retrieve(future: asyncio.Future[None]) -> None:
    """A client that has gone does not wait for the error."""
    if not future.cancelled():
        future.exception()
