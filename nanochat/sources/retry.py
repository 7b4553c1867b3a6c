"""Tries again, later: for what the network may get right the next time."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from nanochat.errors import NanochatError

T = TypeVar("T")
LOG = logging.getLogger("nanochat.sources")

TRIES = 5
FIRST_WAIT_S = 1.0
JITTER = 0.25
"""Up to this share longer, so that shards that failed together do not ask again together."""


def with_retries(
    attempt: Callable[[], T],
    *,
    tries: int = TRIES,
    wait_s: float = FIRST_WAIT_S,
    reached: Callable[[], float] = lambda: 0.0,
) -> T:
    """The result of `attempt`, which is repeated while its error is transient.

    The pauses are 1, 2, 4, 8 seconds, or as long as the server requests; each is logged.

    `reached` says how far it is; a try that came further than all before counts as the first: a large file over a bad
    line takes as many as it needs.
    """
    failed, furthest = 0, reached()
    while True:
        try:
            return attempt()
        except NanochatError as error:
            failed += 1
            if (now := reached()) > furthest:
                failed, furthest = 1, now
            if not error.transient or failed == tries:
                raise
            asked_s: float = getattr(error, "retry_after_s", 0.0)
            pause_s = max(asked_s, wait_s * 2 ** (failed - 1)) * random.uniform(1, 1 + JITTER)  # noqa: S311 - not a secret
            LOG.warning("%s Trying again in %.0f s (%d of %d).", error.message, pause_s, failed + 1, tries)
            time.sleep(pause_s)
