"""Retries calls over the network."""

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
"""A pause is up to this share longer, so that shards that failed together do not retry together."""


def with_retries(
    attempt: Callable[[], T],
    *,
    tries: int = TRIES,
    wait_s: float = FIRST_WAIT_S,
    progress: Callable[[], float] = lambda: 0.0,
) -> T:
    """The result of `attempt`, which is repeated while its error is transient.

    The pauses are 1, 2, 4, 8 seconds, or as long as the server requests; each is logged. A try after which `progress()`
    is higher than ever before counts as the first one, so that a large file over a bad connection can take many tries.
    """
    failed, furthest = 0, progress()
    while True:
        try:
            return attempt()
        except NanochatError as error:
            failed += 1
            if (now := progress()) > furthest:
                failed, furthest = 1, now
            if not error.transient or failed == tries:
                raise
            requested_s: float = getattr(error, "retry_after_s", 0.0)
            pause_s = max(requested_s, wait_s * 2 ** (failed - 1))
            pause_s *= random.uniform(1, 1 + JITTER)  # noqa: S311 - not a secret
            LOG.warning("%s Trying again in %.0f s (%d of %d).", error.message, pause_s, failed + 1, tries)
            time.sleep(pause_s)
