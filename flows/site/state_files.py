"""Small files that say where a server or a keeper is: `server.json`, `keeper.json`.

Such a file is locked as long as the process that it names lives; a lock is dropped by the kernel, whatever ends the
process. So an unlocked file says nothing about the present, whatever is in it; and a locked one is about the process
that holds the lock, whose number no other process can have.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from nanochat.errors import NanochatError

MOST_BYTES = 1 << 16
TRIES, TRY_EVERY_S = 5, 0.01


def lock(file: IO[str], *, shared: bool = False) -> bool:
    """Whether the file's lock could be had; it is held until the file is closed.

    Who only looks whether it is held has it for a moment too, so one refusal to lock it alone says nothing.
    """
    for attempt in range(1 if shared else TRIES):
        if attempt:
            time.sleep(TRY_EVERY_S)
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        return True
    return False


def open_state(path: Path) -> IO[str]:
    """The file, made if it is missing; raises `NanochatError` when it cannot be used."""
    try:
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+")
    except OSError as error:
        raise unusable(path, error) from error


def unusable(path: Path, error: OSError) -> NanochatError:
    """What is said of a file that cannot be opened."""
    return NanochatError(
        f"`{path}` cannot be used: {error.strerror or error}.",
        hint="Move it away, or take another home (`NANOCHAT_HOME`): each user needs one of their own.",
    )


def held(path: Path) -> bool:
    """Whether the process that the file is about lives."""
    try:
        with path.open() as file:
            return not lock(file, shared=True)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise unusable(path, error) from error


def read(file: IO[str], fields: Mapping[str, type]) -> dict[str, Any]:
    """What is in the file; empty when it is half-written, or of another program: all fields are there or none is."""
    try:
        found = json.loads(os.pread(file.fileno(), MOST_BYTES, 0))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict) or not all(_fits(found.get(name), kind) for name, kind in fields.items()):
        return {}
    return found


def _fits(value: object, kind: type) -> bool:
    return type(value) is kind and (not isinstance(value, int) or 0 <= value < 1 << 31)  # a signal to -1 reaches all


def write(file: IO[str], content: Mapping[str, Any]) -> None:
    """Replaces what is in the file, in place: another file would not have the lock.

    Spaces cover what was there before, so that it is one write, which a reader sees whole or not at all.
    """
    number = file.fileno()
    if os.fstat(number).st_size > MOST_BYTES:  # another program's
        os.ftruncate(number, 0)
    os.pwrite(number, json.dumps(content).encode().ljust(os.fstat(number).st_size), 0)
