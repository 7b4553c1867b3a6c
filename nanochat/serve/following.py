"""Follows an alias: when it moves, the model that it now points to is loaded, and replaces the old one.

While that is not possible, the old model stays. A problem is logged once, and tried again less and less often.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from nanochat.failures import to_nanochat_error
from nanochat.store.artifacts import Artifact

LOG = logging.getLogger("nanochat.serve")
MAX_WAIT_S = 60.0
"""Between two looks at an alias that cannot be read."""
MAX_LOAD_WAIT_S = 600.0
"""Between two loads of an artifact that cannot be loaded, while the alias stays there."""


class Follower:
    """Follows one alias, until its task is cancelled."""

    def __init__(
        self,
        name: str,
        served: Callable[[], Artifact],
        find: Callable[[str], Artifact],
        replace: Callable[[Artifact], Awaitable[None]],
        every_s: float,
    ) -> None:
        """`served` is the artifact that is served, `find` that of the alias; `replace` serves another one."""
        self.failing = False
        """Whether the alias cannot be followed now."""
        self._name, self._served, self._find, self._replace = name, served, find, replace
        self._every_s = every_s
        self._logged: set[tuple[type[Exception], str]] = set()
        """Problems since the last success, by the digest of the artifact that has them."""

    async def run(self) -> None:
        """Looks where the alias points, again and again."""
        unread, refused, loads, load_at = 0, "", 0, 0.0
        while True:
            await asyncio.sleep(_delay_s(self._every_s, unread, MAX_WAIT_S))
            try:
                artifact = await asyncio.to_thread(self._find, self._name)
            except Exception as error:  # noqa: BLE001 - logged, and tried again
                unread += 1
                self._fail(error, "")
                continue
            unread = 0
            if (artifact.key, artifact.digest) == (self._served().key, self._served().digest):
                self._succeed()
                continue
            if artifact.digest != refused:
                refused, loads, load_at = artifact.digest, 0, 0.0
            if time.monotonic() < load_at:
                continue
            try:
                await self._replace(artifact)
            except Exception as error:  # noqa: BLE001 - logged, and tried again
                loads += 1
                load_at = time.monotonic() + _delay_s(self._every_s, loads, MAX_LOAD_WAIT_S)
                self._fail(error, artifact.digest)
            else:
                self._succeed()

    def _fail(self, error: Exception, digest: str) -> None:
        self.failing = True
        if (type(error), digest) not in self._logged:
            self._logged.add((type(error), digest))
            LOG.warning(
                "`%s` stays at %s: %s", self._name, self._served().key[:12],
                to_nanochat_error(error, f"the load of `{self._name}`"),
            )  # fmt: skip

    def _succeed(self) -> None:
        if self.failing:
            LOG.warning("`%s` is followed again.", self._name)
        self.failing = False
        self._logged.clear()


def _delay_s(every_s: float, failures: int, most_s: float) -> float:
    return min(every_s * 2 ** min(failures, 20), max(most_s, every_s))
