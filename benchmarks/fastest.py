"""The fastest of a peer's documented calls, all measured in this run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Generic, NamedTuple, TypeVar

R = TypeVar("R")


class Measured(NamedTuple, Generic[R]):
    """A call, its result, and the least seconds by the clock and of the processor (all threads)."""

    call: str
    result: R
    seconds: float
    cpu_seconds: float


def measure(call: str, work: Callable[[], R], times: int = 1) -> Measured[R]:
    measured: list[Measured[R]] = []
    for _ in range(times):
        began, cpu = time.perf_counter(), time.process_time()
        result = work()
        measured.append(Measured(call, result, time.perf_counter() - began, time.process_time() - cpu))
    return Measured(
        call, measured[-1].result, min(one.seconds for one in measured), min(one.cpu_seconds for one in measured)
    )


def best_of(calls: Mapping[str, Callable[[], R]], times: int = 1, by: str = "seconds") -> Measured[R]:
    """The call with the least `seconds` or `cpu_seconds`."""
    return min((measure(call, work, times) for call, work in calls.items()), key=lambda one: getattr(one, by))
