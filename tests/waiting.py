"""Waiting for something to happen: for long on a busy machine, and never longer than needed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(reached: Callable[[], T], what: str, limit_s: float = 300, every_s: float = 0.05) -> T:
    """The first true result of `reached`, which is called again and again; fails after `limit_s` seconds."""
    deadline = time.monotonic() + limit_s
    while not (found := reached()):
        assert time.monotonic() < deadline, f"waited {limit_s} s for {what}"
        time.sleep(every_s)
    return found
