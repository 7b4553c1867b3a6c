"""Single flight: of the runs that want one key at once, one works and the others wait.

A lease is a small object, created only if there is none, renewed by its holder's heartbeat, and taken over when it has
not changed for the holder's `ttl_s` by the waiter's own monotonic clock, so that wall clocks that jump do no harm. It
saves work; what keeps results right is that publication is create-only.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from nanochat.errors import NanochatError
from nanochat.store.objects import Objects

POLL_S = 0.5


class Held:
    """A lease that this process holds; `lost` once somebody else has taken it over."""

    def __init__(self, objects: Objects, path: str, data: bytes) -> None:
        self.lost = False
        self._objects, self._path, self._data = objects, path, data

    @property
    def fence(self) -> int:
        """Grows by one with every takeover."""
        return json.loads(self._data)["fence"]

    def renew(self) -> None:
        """Shows that the holder lives."""
        record = json.loads(self._data)
        record["beat"] += 1
        data = json.dumps(record).encode()
        if self._objects.swap(self._path, data, self._data) or self._is(data):
            self._data = data
        else:
            self.lost = True

    def release(self) -> None:
        """Gives it up, unless it is another's by now."""
        if not self.lost and self._is(self._data):
            self._objects.delete([self._path])

    def _is(self, data: bytes) -> bool:
        # Asked after a refused swap too: the answer to a first try may have been lost, and only the second refused.
        try:
            return self._objects.read(self._path) == data
        except FileNotFoundError:
            return False


@contextlib.contextmanager
def lease(
    objects: Objects, key: str, *, ttl_s: float = 20.0, on_wait: Callable[[str], None] = lambda holder: None
) -> Iterator[Held]:
    """Waits for the lease of a key and holds it; `on_wait` is told who has it, once a holder."""
    held = _acquire(objects, f"v1/leases/{key}.json", ttl_s, on_wait)
    done = threading.Event()

    def beat() -> None:
        while not done.wait(ttl_s / 4) and not held.lost:
            with contextlib.suppress(NanochatError, OSError):  # the store is away or full: the next beat may do
                held.renew()

    heart = threading.Thread(target=beat, name=f"lease-{key[:8]}", daemon=True)
    heart.start()
    try:
        yield held
    finally:
        done.set()
        heart.join()
        with contextlib.suppress(NanochatError, OSError):  # the work is done; the lease runs out by itself
            held.release()


def _acquire(objects: Objects, path: str, ttl_s: float, on_wait: Callable[[str], None]) -> Held:
    holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:6]}"
    told, seen, since = "", b"", time.monotonic()
    while True:
        mine = _record(holder, 1, ttl_s)
        if objects.create(path, mine):
            return Held(objects, path, mine)
        try:
            now = objects.read(path)
        except FileNotFoundError:
            continue
        if now == mine:  # the answer to a first try was lost, and only the second refused
            return Held(objects, path, mine)
        other = _parse(now)
        if now != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since > other.get("ttl_s", ttl_s):
            mine = _record(holder, other.get("fence", 0) + 1, ttl_s)
            if objects.swap(path, mine, now):
                return Held(objects, path, mine)
        if (name := other.get("holder", "somebody")) != told:
            told = name
            on_wait(name)
        time.sleep(min(POLL_S, ttl_s / 4))


def _record(holder: str, fence: int, ttl_s: float) -> bytes:
    return json.dumps({"holder": holder, "fence": fence, "beat": 0, "ttl_s": ttl_s}).encode()


def _parse(data: bytes) -> dict[str, Any]:
    try:
        record = json.loads(data)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}
