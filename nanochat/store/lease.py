"""Single flight: of the runs that want one key at once, one works and the others wait.

A lease is a small object, created only if there is none, renewed by its holder's heartbeat, and taken over when it has
not changed for `ttl_s` by the waiter's own monotonic clock, so that wrong or jumping wall clocks do no harm. The lease
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

from nanochat.errors import StoreError
from nanochat.store.objects import Objects

POLL_S = 0.5


class Held:
    """A lease that this process holds; `lost` once somebody else has taken it over."""

    def __init__(self, objects: Objects, path: str, data: bytes) -> None:
        self.lost = False
        self._objects, self._path, self._data = objects, path, data

    def renew(self) -> None:
        """Shows that the holder lives."""
        record = json.loads(self._data)
        record["beat"] += 1
        data = json.dumps(record).encode()
        if self._objects.swap(self._path, data, self._data):
            self._data = data
        else:
            self.lost = True

    def release(self) -> None:
        """Gives it up, unless it is another's by now."""
        with contextlib.suppress(FileNotFoundError):
            if not self.lost and self._objects.read(self._path) == self._data:
                self._objects.delete([self._path])


@contextlib.contextmanager
def lease(
    objects: Objects, key: str, *, ttl_s: float = 20.0, on_wait: Callable[[str], None] = lambda holder: None
) -> Iterator[Held]:
    """Waits for the lease of a key and holds it; `on_wait` is told who has it, once a holder."""
    held = _acquire(objects, f"v1/leases/{key}.json", ttl_s, on_wait)
    done = threading.Event()

    def beat() -> None:
        while not done.wait(ttl_s / 4) and not held.lost:
            with contextlib.suppress(StoreError):  # the store is away: the next beat may reach it
                held.renew()

    heart = threading.Thread(target=beat, name=f"lease-{key[:8]}", daemon=True)
    heart.start()
    try:
        yield held
    finally:
        done.set()
        heart.join()
        held.release()


def _acquire(objects: Objects, path: str, ttl_s: float, on_wait: Callable[[str], None]) -> Held:
    holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:6]}"
    told, seen, since = "", b"", time.monotonic()
    while True:
        mine = json.dumps({"holder": holder, "fence": 1, "beat": 0}).encode()
        if objects.create(path, mine):
            return Held(objects, path, mine)
        try:
            now = objects.read(path)
        except FileNotFoundError:
            continue
        if now != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since > ttl_s:
            mine = json.dumps({"holder": holder, "fence": json.loads(now)["fence"] + 1, "beat": 0}).encode()
            if objects.swap(path, mine, now):
                return Held(objects, path, mine)
        other = json.loads(now)["holder"]
        if other != told:
            told = other
            on_wait(other)
        time.sleep(min(POLL_S, ttl_s / 4))
