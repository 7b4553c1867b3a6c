"""Single flight: of the runs that want one key at once, one works and the others wait.

A lease is a small object, created only if there is none, renewed by its holder's heartbeat, and taken over when it has
not changed for the holder's `ttl_s` by the waiter's own monotonic clock, so that wall clocks that jump do no harm; at
once, when its holder was a process of this machine that is gone. It saves work; what keeps results right is that
publication is create-only, and that a holder asks `holds` before it changes what the next one would build on.
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
from pathlib import Path
from typing import Any

from nanochat.errors import NanochatError, StoreError
from nanochat.store.objects import Objects

POLL_S = 0.5
MOST_REFUSALS = 20
"""So many times in a row a store may refuse to create a lease and then say that there is none, or refuse to replace
what it has just shown."""
RELEASE_PAUSES_S = (0.2, 1.0, 0.0)
"""Between tries to give a lease back; nobody else has to wait for it to run out then."""


class LeaseLost(NanochatError):
    """The lease went to another while this process was silent (stopped, asleep, or cut off from the store)."""


class HeldLease:
    """A lease that this process holds; `lost` once somebody else has taken it over."""

    def __init__(self, objects: Objects, path: str, data: bytes) -> None:
        self.lost = False
        self._objects, self._path, self._data = objects, path, data
        self._one_beat = threading.Lock()

    @property
    def fence(self) -> int:
        """Grows by one with every takeover."""
        return json.loads(self._data)["fence"]

    def renew(self) -> None:
        """Shows that the holder lives."""
        with self._one_beat:
            record = json.loads(self._data)
            record["beat"] += 1
            data = json.dumps(record).encode()
            if self._objects.swap(self._path, data, self._data) or self._is(data):
                self._data = data
            else:
                self.lost = True

    def holds(self) -> bool:
        """Asks the store, now: `lost` is only as new as the last beat, and a process may be stopped in between."""
        if not self.lost:
            self.renew()
        return not self.lost

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
) -> Iterator[HeldLease]:
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
        _release(held)


def _release(held: HeldLease) -> None:
    """Gives a lease back. A store that fails does not fail the work, which is done: the lease runs out by itself."""
    for pause_s in RELEASE_PAUSES_S:
        try:
            held.release()
        except (NanochatError, OSError) as error:
            if not getattr(error, "transient", False):
                return
            time.sleep(pause_s)
        else:
            return


def _acquire(objects: Objects, path: str, ttl_s: float, on_wait: Callable[[str], None]) -> HeldLease:
    holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:6]}"
    told, seen, since, refusals = "", b"", time.monotonic(), 0
    while True:
        if refusals == MOST_REFUSALS:
            raise StoreError(
                f"The store {objects.root} refuses to write `{path}`, and does not show why.",
                hint="Does the store honour conditional writes, and is no proxy before it?",
            )
        mine = _record(holder, 1, ttl_s)
        if objects.create(path, mine):
            return HeldLease(objects, path, mine)
        try:
            now = objects.read(path)
        except FileNotFoundError:  # it was released in between
            refusals += 1
            time.sleep(min(POLL_S, ttl_s / 4) if refusals > 1 else 0.0)
            continue
        if now == mine:  # the answer to a first try was lost, and only the second refused
            return HeldLease(objects, path, mine)
        other = _parse(now)
        if now != seen:
            seen, since, refusals = now, time.monotonic(), 0
        if time.monotonic() - since > other.get("ttl_s", ttl_s) or _is_gone(other.get("process")):
            mine = _record(holder, other.get("fence", 0) + 1, ttl_s)
            if objects.swap(path, mine, now):
                return HeldLease(objects, path, mine)
            refusals += 1
        if (name := other.get("holder", "another run")) != told:
            told = name
            on_wait(name)
        time.sleep(min(POLL_S, ttl_s / 4))


def _record(holder: str, fence: int, ttl_s: float) -> bytes:
    return json.dumps({"holder": holder, "fence": fence, "beat": 0, "ttl_s": ttl_s, "process": _process()}).encode()


def _parse(data: bytes) -> dict[str, Any]:
    """What is known of the holder; a field that is not what it should be is left out."""
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    types = {"holder": str, "fence": int, "ttl_s": int | float, "process": dict}
    known = record if isinstance(record, dict) else {}
    return {name: known[name] for name, kind in types.items() if isinstance(known.get(name), kind)}


def _process() -> dict[str, Any]:
    """What tells this process from all others, now and later; empty where that cannot be known (not Linux).

    A place is a boot of a machine, a space of process ids in it (containers have one each, and may share a host name)
    and a user, who sees all processes of his own.
    """
    try:
        if str(Path("/proc/self").readlink()) != str(os.getpid()):  # the `/proc` of another space
            return {}
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        place = f"{socket.gethostname()} {boot} {Path('/proc/self/ns/pid').readlink()} {os.getuid()}"
        return {"place": place, "pid": os.getpid(), "born": _born(os.getpid())}
    except OSError:
        return {}


def _born(pid: int) -> int:
    """Clock ticks from boot to the start of a process, to recognise a reused id; 0 for a zombie."""
    state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return 0 if state in "ZX" else int(numbers[18])


def _is_gone(process: Any) -> bool:
    """Whether it is certain that the process has ended: it was of this place, and is not there."""
    here = _process()
    if not here or not isinstance(process, dict) or process.get("place") != here["place"]:
        return False
    pid, born = process.get("pid"), process.get("born")
    if not isinstance(pid, int) or not isinstance(born, int):
        return False
    try:
        return _born(pid) != born
    except (FileNotFoundError, ProcessLookupError):
        return True
    except OSError:
        return False
