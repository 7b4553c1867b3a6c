"""Small files with the process of a server or of a site supervisor: `server.json`, `site.json`.

The process holds a lock on its file for as long as it lives; the kernel drops the lock when the process ends, however
it ends. So the content of an unlocked file is out of date, and the pid in a locked one belongs to the lock's holder.
"""

import fcntl  # and not filelock: several processes share a lock
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from nanochat.errors import NanochatError

MAX_BYTES = 1 << 16
LOCK_ATTEMPTS, LOCK_RETRY_S = 5, 0.01


def try_lock(file: IO[str], *, shared: bool = False) -> bool:
    """Locks the file until it is closed; returns whether that succeeded.

    An exclusive lock is tried several times: `is_locked` holds a shared lock for a moment.
    """
    for attempt in range(1 if shared else LOCK_ATTEMPTS):
        if attempt:
            time.sleep(LOCK_RETRY_S)
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        return True
    return False


def open_state(path: Path) -> IO[str]:
    """Opens the file, or creates it; raises `NanochatError` when it cannot be used."""
    try:
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+")
    except OSError as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: OSError) -> NanochatError:
    return NanochatError(
        f"`{path}` cannot be used: {error.strerror or error}.",
        hint="Move it away, or choose another home (`NANOCHAT_HOME`): each user needs a separate one.",
    )


def is_locked(path: Path) -> bool:
    """Whether the process in the file is alive."""
    try:
        with path.open() as file:
            return not try_lock(file, shared=True)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _unusable(path, error) from error


def read(file: IO[str], fields: Mapping[str, type]) -> dict[str, Any]:
    """The content; empty when it is not a complete record, with every field of the right type."""
    try:
        found = json.loads(os.pread(file.fileno(), MAX_BYTES, 0))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict) or not all(_is_valid(found.get(name), kind) for name, kind in fields.items()):
        return {}
    return found


def _is_valid(value: object, kind: type) -> bool:
    return type(value) is kind and (not isinstance(value, int) or 0 <= value < 1 << 31)  # kill(-1) ends all processes


def write(file: IO[str], content: Mapping[str, Any]) -> None:
    """Replaces the content in place, because a new file would not have the lock.

    Spaces overwrite the rest of a longer record: it is one write, so a reader gets all of it or nothing.
    """
    number = file.fileno()
    if os.fstat(number).st_size > MAX_BYTES:  # not one of our files
        os.ftruncate(number, 0)
    os.pwrite(number, json.dumps(content).encode().ljust(os.fstat(number).st_size), 0)
