"""A lease makes one of several runs that need the same key do the work, while the others wait.

A lease is a small object, created only if there is none, and renewed by its holder's heartbeat. A waiter takes it over
when it has not changed for the holder's `ttl_s` by the waiter's own monotonic clock, so that wall clocks that jump do
no harm; or at once, if its holder was a process of this machine that has ended. A lease only saves work. Results stay
correct because publication is create-only, and because a holder calls `holds` before it changes what the next holder
would build on.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, cast

from nanochat.errors import NanochatError, StoreError
from nanochat.store.objects import Objects

POLL_S = 0.5
MAX_REFUSALS = 20
"""Consecutive times that a store may refuse to create a lease and then have none, or refuse to replace the lease that
it has just returned."""
RELEASE_PAUSES_S = (0.2, 1.0, 0.0)
"""Pauses between attempts to release a lease. After a release no other process waits until the lease expires."""


class LeaseLost(NanochatError):
    """Another process took the lease, because this one was suspended or cut off from the store and did not renew it."""


class HeldLease:
    """A lease that this process holds; `lost` once another process has taken it over."""

    def __init__(self, objects: Objects, path: str, data: bytes) -> None:
        self.lost = False
        self._objects, self._path, self._data = objects, path, data
        self._renewing = threading.Lock()

    @property
    def fence(self) -> int:
        """Fencing number: grows by one with every takeover."""
        return json.loads(self._data)["fence"]

    def renew(self) -> None:
        """Writes the lease again, as a heartbeat."""
        with self._renewing:
            record = json.loads(self._data)
            record["beat"] += 1
            data = json.dumps(record).encode()
            if self._objects.swap(self._path, data, self._data) or self._is(data):
                self._data = data
            else:
                self.lost = True

    def holds(self) -> bool:
        """Whether the store has the lease now: `lost` is only as new as the last heartbeat."""
        if not self.lost:
            self.renew()
        return not self.lost

    def release(self) -> None:
        """Deletes the lease, unless another process has it."""
        if not self.lost and self._is(self._data):
            self._objects.delete([self._path])

    def _is(self, data: bytes) -> bool:
        # Needed after a refused swap too: the response to a first attempt may be lost, and only the second refused.
        try:
            return self._objects.read(self._path) == data
        except FileNotFoundError:
            return False


@contextlib.contextmanager
def lease(
    objects: Objects, key: str, *, ttl_s: float = 20.0, on_wait: Callable[[str], None] = lambda holder: None
) -> Generator[HeldLease]:
    """Waits for the lease of a key and holds it; `on_wait` receives each other holder once."""
    held = _acquire(objects, f"v1/leases/{key}.json", ttl_s, on_wait)
    done = threading.Event()

    def heartbeat() -> None:
        while not done.wait(ttl_s / 4) and not held.lost:
            with contextlib.suppress(NanochatError, OSError):  # the store is away or full: the next one may succeed
                held.renew()

    thread = threading.Thread(target=heartbeat, name=f"lease-{key[:8]}", daemon=True)
    thread.start()
    try:
        yield held
    finally:
        done.set()
        thread.join()
        _release(held)


def _release(held: HeldLease) -> None:
    """Releases a lease. A store that fails does not fail the work, which is done: the lease expires."""
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
    reported, seen, since, refusals = "", b"", time.monotonic(), 0
    while True:
        if refusals == MAX_REFUSALS:
            what = f"which `{reported}` has not renewed" if reported else "and does not return it"
            raise StoreError(
                f"Waited for a lease in vain: the store {objects.root} refuses to write `{path}`, {what}.",
                hint="Does the store support conditional writes, without a proxy in between? `nanochat store check`",
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
        if now == mine:  # the response to a first attempt was lost, and only the second was refused
            return HeldLease(objects, path, mine)
        other = _parse(now)
        if now != seen:
            seen, since, refusals = now, time.monotonic(), 0
        if time.monotonic() - since > other.get("ttl_s", ttl_s) or _has_ended(other.get("process", {})):
            mine = _record(holder, other.get("fence", 0) + 1, ttl_s)
            if objects.swap(path, mine, now):
                return HeldLease(objects, path, mine)
            refusals += 1
        if (name := other.get("holder", "another run")) != reported:
            reported = name
            on_wait(name)
        time.sleep(min(POLL_S, ttl_s / 4))


def _record(holder: str, fence: int, ttl_s: float) -> bytes:
    record = {"holder": holder, "fence": fence, "beat": 0, "ttl_s": ttl_s, "process": _this_process()}
    return json.dumps(record).encode()


def _parse(data: bytes) -> dict[str, Any]:
    """The record of a lease, without fields of a wrong type."""
    try:
        record: object = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    types = {"holder": str, "fence": int, "ttl_s": int | float, "process": dict}
    known = cast("dict[str, Any]", record) if isinstance(record, dict) else {}
    return {name: known[name] for name, kind in types.items() if isinstance(known.get(name), kind)}


def _this_process() -> dict[str, Any]:
    """Identifies this process among all others, now and later; empty where that is impossible (not Linux).

    A place is a boot of a machine, a namespace of process ids (each container has one; containers may share a host
    name) and a user, because a user sees all of their own processes.
    """
    try:
        if str(Path("/proc/self").readlink()) != str(os.getpid()):  # the `/proc` of another namespace
            return {}
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        place = f"{socket.gethostname()} {boot} {Path('/proc/self/ns/pid').readlink()} {os.getuid()}"
        return {"place": place, "pid": os.getpid(), "born": _start_time(os.getpid())}
    except OSError:
        return {}


def _start_time(pid: int) -> int:
    """Clock ticks from boot to the start of a process, to recognise a reused id; 0 for a zombie."""
    state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return 0 if state in "ZX" else int(numbers[18])


def _has_ended(process: dict[str, Any]) -> bool:
    """Whether it is certain that the process has ended: it was of this place, and does not exist."""
    here = _this_process()
    if not here or process.get("place") != here["place"]:
        return False
    pid, born = process.get("pid"), process.get("born")
    if not isinstance(pid, int) or not isinstance(born, int):
        return False
    try:
        return _start_time(pid) != born
    except (FileNotFoundError, ProcessLookupError):
        return True
    except OSError:
        return False
