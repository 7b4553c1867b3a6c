"""Once more, and later: for what the network may get right the next time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from nanochat.errors import NanochatError

T = TypeVar("T")

TRIES = 4
FIRST_WAIT_S = 1.0


def patiently(attempt: Callable[[], T], *, tries: int = TRIES, wait_s: float = FIRST_WAIT_S) -> T:
    """The result of `attempt`, tried again after 1, 2, 4 seconds while its error is transient."""
    for number in range(tries - 1):
        try:
            return attempt()
        except NanochatError as error:
            if not error.transient:
                raise
            time.sleep(wait_s * 2**number)
    return attempt()
