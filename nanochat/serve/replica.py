"""An engine in a thread of its own.

    event loop:  submit, cancel ──▶ inbox ──▶ thread:  engine.submit, engine.cancel, engine.step, engine.step, …
                 generations    ◀── deltas of a step ──┘

An engine that raises is dropped: its generations fail, and the thread loads the weights again.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Protocol

from nanochat.errors import NanochatError
from nanochat.failures import to_nanochat_error, traceback_text
from nanochat.inference.request import Delta, Request
from nanochat.serve.generation import EngineFailed, Generation

LOG = logging.getLogger("nanochat.serve")
State = Literal["loading", "ready", "restarting", "failed", "closed"]
RESTART_DELAYS_S = (0.0, 1.0, 5.0, 30.0)
"""Before the first, second, … load after a failure; the last one repeats."""
STABLE_S = 60.0
"""An engine that ran for so long is loaded again without delay."""
CLOSE_S = 5.0
_numbers = itertools.count()


class Statistics(Protocol):
    """The counters of an engine that the server reports."""

    running: int
    waiting: int


class EngineFace(Protocol):
    """The part of `Engine` that a replica uses."""

    @property
    def has_work(self) -> bool: ...
    @property
    def statistics(self) -> Statistics: ...
    def submit(self, request: Request) -> int: ...
    def cancel(self, request: int) -> None: ...
    def step(self) -> list[Delta]: ...


@dataclass
class _Taken:
    """A request in the engine."""

    generation: Generation
    prompt: int
    """Number of the prompt in the generation."""
    unfinished_answers: int


class Replica:
    """One engine. All methods belong to the event loop's thread; those with `_in_thread` run in the engine's."""

    def __init__(self, load: Callable[[bool], EngineFace], name: str) -> None:
        """`load` makes the engine; its argument is whether it does so again, after a failure."""
        self.name = name
        self.state: State = "loading"
        self.restarts = 0
        self.failed_loads = 0
        """Since an engine ran."""
        self.answers = 0
        """Unfinished answers: generated, or waiting."""
        self.engine: EngineFace | None = None
        self._load = load
        self.loop = asyncio.get_running_loop()
        self._inbox: queue.SimpleQueue[tuple[Literal["submit", "cancel"], Generation] | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._taken: dict[int, _Taken] = {}
        """The requests in the engine, by number. Only its thread uses this."""
        self._active: set[Generation] = set()
        self._loaded: asyncio.Future[None] = self.loop.create_future()
        self._thread = threading.Thread(target=self._run_in_thread, name=f"engine-{next(_numbers)}", daemon=True)
        self._thread.start()

    async def loaded(self) -> None:
        """Waits for the engine. Raises the error that the first load had."""
        await asyncio.shield(self._loaded)

    def submit(self, requests: Sequence[Request], interval_s: float) -> Generation:
        """Passes prompts to the engine; for `interval_s` see `Generation`."""
        generation = Generation(requests, self._cancel, interval_s)
        self._active.add(generation)
        self.answers += generation.answers
        self._inbox.put(("submit", generation))
        return generation

    def _cancel(self, generation: Generation) -> None:
        self._release(generation)
        self._inbox.put(("cancel", generation))

    def _release(self, generation: Generation) -> None:
        if generation in self._active:
            self._active.remove(generation)
            self.answers -= generation.answers

    async def close(self) -> None:
        """Ends the thread, without waiting for a load or a step that takes long. Generations that run fail."""
        self.state = "closed"
        self._closing.set()
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join, CLOSE_S)
        self.engine = None
        self._fail(list(self._active), EngineFailed("The server is stopping."))

    # --- posted by the engine's thread --------------------------------------------------------------------------------

    def _deliver(self, deltas: list[tuple[Generation, int, Delta]]) -> None:
        for generation, prompt, delta in deltas:
            generation.append(prompt, delta)
            if generation.finished:
                self._release(generation)

    def _fail(self, generations: Sequence[Generation], error: NanochatError) -> None:
        for generation in generations:
            self._release(generation)
            generation.fail(error)

    def _started(self, engine: EngineFace) -> None:
        self.engine = engine
        self.failed_loads = 0
        self._enter("ready")
        if not self._loaded.done():
            self._loaded.set_result(None)

    def _not_loaded(self, error: NanochatError) -> None:
        self.failed_loads += 1
        self._enter("failed")
        self._fail(list(self._active), EngineFailed("The engine cannot be started."))
        if not self._loaded.done():
            self._loaded.set_exception(error)

    def _crashed(self) -> None:
        self.engine = None
        self.restarts += 1
        self._enter("restarting")
        error = EngineFailed("The engine failed while it generated.", hint="Send the request again.")
        self._fail(list(self._active), error)

    def _enter(self, state: State) -> None:
        if self.state != "closed":
            self.state = state

    # --- the engine's thread ------------------------------------------------------------------------------------------

    def _post(self, call: Callable[..., None], *values: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: the process ends
            self.loop.call_soon_threadsafe(call, *values)

    def _run_in_thread(self) -> None:
        failures = 0
        while not self._closing.wait(RESTART_DELAYS_S[min(max(failures - 1, 0), len(RESTART_DELAYS_S) - 1)]):
            try:
                engine = self._load(failures > 0)
            except BaseException as error:  # noqa: BLE001 - `loaded` raises it; a panic of Rust is no `Exception`
                found = to_nanochat_error(error, f"the load of {self.name}")
                self._post(self._not_loaded, found)
                if failures == 0:
                    return
                LOG.error("%s cannot be started again: %s", self.name, found)
                failures += 1
                continue
            self._post(self._started, engine)
            began = time.monotonic()
            try:
                self._serve_in_thread(engine)
            except BaseException as error:  # noqa: BLE001 - logged; the engine is loaded again
                LOG.error("The engine of %s failed and is loaded again:\n%s", self.name, traceback_text(error))
                self._post(self._crashed)
                self._taken.clear()
            failures = 1 if time.monotonic() - began > STABLE_S else failures + 1
            del engine

    def _serve_in_thread(self, engine: EngineFace) -> None:
        """Runs the engine until the replica is closed."""
        while not self._closing.is_set():
            idle = not engine.has_work
            while idle or not self._inbox.empty():
                idle = False
                item = self._inbox.get()
                if item is None:
                    return
                what, generation = item
                if what == "submit":
                    self._submit_in_thread(engine, generation)
                else:
                    self._cancel_in_thread(engine, generation)
            if engine.has_work:
                self._pass_in_thread(engine.step())

    def _submit_in_thread(self, engine: EngineFace, generation: Generation) -> None:
        if generation.finished:  # cancelled before it arrived here
            return
        numbers: list[int] = []
        try:
            for prompt, request in enumerate(generation.requests):
                number = engine.submit(request)
                numbers.append(number)
                self._taken[number] = _Taken(generation, prompt, request.answers)
        except NanochatError as error:
            for number in numbers:
                engine.cancel(number)
            self._post(self._fail, [generation], error)
            return
        self._post(generation.accept)

    def _cancel_in_thread(self, engine: EngineFace, generation: Generation) -> None:
        for number, taken in self._taken.items():
            if taken.generation is generation:
                engine.cancel(number)

    def _pass_in_thread(self, deltas: list[Delta]) -> None:
        """Posts the deltas of a step to the event loop, in one call."""
        passed: list[tuple[Generation, int, Delta]] = []
        for delta in deltas:
            taken = self._taken[delta.request]
            if delta.finish is not None:
                taken.unfinished_answers -= 1
                if not taken.unfinished_answers:
                    del self._taken[delta.request]
            if not taken.generation.finished:
                passed.append((taken.generation, taken.prompt, delta))
        if passed:
            self._post(self._deliver, passed)
