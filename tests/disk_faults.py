"""A disk that fails: calls of the file system below some folders are counted, and any of them can be made to fail.

The calls of `os`, `open`, `shutil` and `fcntl` are replaced, in this process, while `watched` is open. What libraries
written in C open by themselves is not seen.
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

READS, WRITES, NAMES, LISTS, LOCKS = (
    frozenset({"open-read", "read", "stat"}),
    frozenset({"create", "write", "fsync", "mkdir", "copy"}),
    frozenset({"link", "rename", "unlink", "rmdir", "utime"}),
    frozenset({"list"}),
    frozenset({"lock"}),
)
EVERY = READS | WRITES | NAMES | LISTS | LOCKS


@dataclass(frozen=True)
class Fault:
    """A way in which a call can fail."""

    name: str
    calls: frozenset[str]
    """The kinds of call that can fail so."""
    number: int = 0
    """`errno`; 0: the call does not fail, and its answer is wrong."""
    transient: bool | None = None
    """Whether trying again may help; None where both are right."""
    executed: bool = False
    """The call was done, and only its answer is lost."""

    @property
    def honest(self) -> bool:
        """Whether the caller learns of the fault."""
        return bool(self.number)


FAULTS = (
    Fault("EACCES", EVERY - {"read", "write", "fsync", "copy", "lock"}, errno.EACCES, transient=False),
    Fault("ESTALE", EVERY, errno.ESTALE, transient=True),
    Fault("EIO", EVERY, errno.EIO, transient=True),
    Fault("EMFILE", frozenset({"open-read", "create", "list"}), errno.EMFILE, transient=True),
    Fault("ENOSPC", WRITES | {"link", "rename"}, errno.ENOSPC, transient=False),
    Fault("EDQUOT", WRITES | {"link"}, errno.EDQUOT, transient=False),
    Fault("EROFS", frozenset({"create", "mkdir"}) | NAMES, errno.EROFS, transient=False),
    Fault("EPERM on a link", frozenset({"link"}), errno.EPERM),
    Fault("ENOTSUP on a link", frozenset({"link"}), errno.ENOTSUP),
    Fault("EMLINK", frozenset({"link"}), errno.EMLINK),
    Fault("ENOLINK", frozenset({"link", "open-read", "stat"}), errno.ENOLINK),
    Fault("ENOLCK", LOCKS, errno.ENOLCK),
    Fault("answer lost", frozenset({"link", "rename", "unlink", "mkdir", "create"}), errno.EIO, executed=True),
    Fault("empty listing", LISTS),
    Fault("half a listing", LISTS),
    Fault("torn read", frozenset({"read"})),
)


@dataclass(frozen=True)
class Call:
    """A call of the file system."""

    number: int
    kind: str
    path: str

    def __str__(self) -> str:
        return f"call {self.number} ({self.kind} {self.path})"


Choose = Callable[[Call], Fault | None]
"""Which fault meets a call, if any."""


class _Watch:
    """Calls of the file system below `roots`."""

    def __init__(self, roots: tuple[Path, ...], choose: Choose) -> None:
        self.calls: list[Call] = []
        self._roots = tuple(f"{root}/" for root in roots)
        self._choose = choose
        self._lock = threading.Lock()

    def meets(self, kind: str, given: Any, folder: int | None = None) -> Fault | None:
        """The fault of this call; None where it is none of ours, or nothing happens to it.

        `folder` is an open one (`dir_fd`) that the path is relative to.
        """
        path = self._path(given) if folder is None else f"{self._path(folder)}/{os.fsdecode(given)}"
        if not f"{path}/".startswith(self._roots):
            return None
        with self._lock:
            call = Call(len(self.calls), kind, path)
            self.calls.append(call)
        fault = self._choose(call)
        return fault if fault and kind in fault.calls else None

    def _path(self, given: Any) -> str:
        try:
            if isinstance(given, int):
                return str(Path(f"/proc/self/fd/{given}").readlink())
            return os.path.abspath(os.fsdecode(given))  # noqa: PTH100 - `Path.absolute` keeps `..`
        except (OSError, TypeError, ValueError):
            return ""


def _error(fault: Fault, given: Any) -> OSError:
    path = given if isinstance(given, int) else os.fsdecode(given)
    return OSError(fault.number, os.strerror(fault.number), path)


def _around(watch: _Watch, kind: str, real: Callable[..., Any], of: int = 0) -> Callable[..., Any]:
    """A call that may fail; its path is the argument `of`."""

    def call(*given: Any, **named: Any) -> Any:
        place = given[of] if len(given) > of else None
        fault = watch.meets(kind, place, named.get("dir_fd"))
        if fault is None:
            return real(*given, **named)
        if fault.executed:
            real(*given, **named)
        raise _error(fault, place)

    return call


class _Raw(io.FileIO):
    """An open file, of which every read and write may fail."""

    watch: _Watch

    def _meets(self, kind: str) -> Fault | None:
        return self.watch.meets(kind, self.name)

    def _torn(self, data: bytes) -> bytes:
        self.seek(0, os.SEEK_END)
        return data[: len(data) // 2]

    def readinto(self, buffer: Any, /) -> int | None:
        fault = self._meets("read")
        if fault and fault.honest:
            raise _error(fault, self.name)
        count = super().readinto(buffer)
        if fault and count:
            self.seek(0, os.SEEK_END)
            return count // 2
        return count

    def readall(self) -> bytes:
        fault = self._meets("read")
        if fault and fault.honest:
            raise _error(fault, self.name)
        data = super().readall()
        return self._torn(data) if fault and data else data

    def write(self, data: Any, /) -> int | None:
        if fault := self._meets("write"):
            raise _error(fault, self.name)
        return super().write(data)


def _opener(watch: _Watch) -> Callable[..., Any]:
    real = io.open

    def opened(
        file: Any, mode: str = "r", buffering: int = -1, encoding: str | None = None, errors: str | None = None,
        newline: str | None = None, closefd: bool = True, opener: Any = None,
    ) -> Any:  # fmt: skip
        if isinstance(file, int) or opener is not None or not f"{watch._path(file)}/".startswith(watch._roots):
            return real(file, mode, buffering, encoding, errors, newline, closefd, opener)
        writes = any(letter in mode for letter in "wax+")
        if fault := watch.meets("create" if writes else "open-read", file):
            if fault.executed and "r" not in mode:
                real(file, mode.replace("b", "") + "b").close()
            raise _error(fault, file)
        raw = _Raw(os.fspath(file), mode.replace("b", "").replace("t", ""))
        raw.watch = watch
        if "b" in mode and buffering == 0:
            return raw
        buffered: Any = (io.BufferedRandom if "+" in mode else io.BufferedWriter if writes else io.BufferedReader)(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding or "utf-8", errors, newline)

    return opened


def _scandir(watch: _Watch) -> Callable[..., Any]:
    real = os.scandir

    class Listed:
        """What `scandir` gives, shortened."""

        def __init__(self, entries: list[Any]) -> None:
            self._entries = iter(entries)

        def __iter__(self) -> Iterator[Any]:
            return self._entries

        def __next__(self) -> Any:
            return next(self._entries)

        def __enter__(self) -> Listed:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def close(self) -> None:
            pass

    def scandir(path: Any = ".") -> Any:
        fault = watch.meets("list", path)
        if fault is None:
            return real(path)
        if fault.honest:
            raise _error(fault, path)
        with real(path) as entries:
            there = sorted(entries, key=lambda entry: entry.name)
        return Listed(_shortened(there, fault))

    return scandir


def _listdir(watch: _Watch) -> Callable[..., Any]:
    real = os.listdir

    def listdir(path: Any = ".") -> Any:
        fault = watch.meets("list", path)
        if fault and fault.honest:
            raise _error(fault, path)
        return _shortened(sorted(real(path)), fault) if fault else real(path)

    return listdir


def _shortened(there: list[Any], fault: Fault) -> list[Any]:
    return [] if fault.name == "empty listing" else there[: len(there) // 2]


def _os_open(watch: _Watch) -> Callable[..., Any]:
    real = os.open

    def opened(path: Any, flags: int, *given: Any, **named: Any) -> int:
        kind = "create" if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR) else "open-read"
        fault = watch.meets(kind, path, named.get("dir_fd"))
        if fault is None:
            return real(path, flags, *given, **named)
        if fault.executed:
            os.close(real(path, flags, *given, **named))
        raise _error(fault, path)

    return opened


@contextmanager
def watched(*roots: Path, choose: Choose = lambda call: None) -> Iterator[list[Call]]:
    """The calls below some folders, as they come; `choose` selects the fault of each."""
    watch = _Watch(roots, choose)
    opened = _opener(watch)
    with ExitStack() as stack:
        for name, kind, of in (
            ("stat", "stat", 0), ("lstat", "stat", 0), ("mkdir", "mkdir", 0), ("rmdir", "rmdir", 0),
            ("unlink", "unlink", 0), ("remove", "unlink", 0), ("link", "link", 1), ("rename", "rename", 1),
            ("replace", "rename", 1), ("utime", "utime", 0), ("fsync", "fsync", 0), ("sendfile", "copy", 0),
            ("truncate", "write", 0),
        ):  # fmt: skip
            stack.enter_context(patch.object(os, name, _around(watch, kind, getattr(os, name), of)))
        stack.enter_context(patch.object(fcntl, "flock", _around(watch, "lock", fcntl.flock)))
        stack.enter_context(patch.object(os, "open", _os_open(watch)))
        stack.enter_context(patch.object(os, "scandir", _scandir(watch)))
        stack.enter_context(patch.object(os, "listdir", _listdir(watch)))
        stack.enter_context(patch.object(io, "open", opened))
        stack.enter_context(patch.object(builtins, "open", opened))
        yield watch.calls
