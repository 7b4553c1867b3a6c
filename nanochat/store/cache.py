"""A bounded cache of files or folders on the local disk, shared by the processes of a machine.

Payloads of a remote store (`payloads.py`) and blocks of packed rows (`data/blocks.py`) are cached with it.
"""

import contextlib
import fcntl
import os
import shutil
import time
import uuid
import weakref
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import IO

from nanochat.errors import NoSpace, SystemFailed, SystemRefused
from nanochat.store.local_files import walk_files
from nanochat.store.object_names import is_foreign
from nanochat.system_errors import DISK_FULL, TRANSIENT

ABANDONED_S = 24 * 3600
"""Age at which an unfinished entry is deleted: its process has ended."""


class DiskCache:
    """Entries with a name, each a file or a folder. The least recently used are deleted when there is no space.

    An entry that a live `DiskCache` uses, in this process or another, is not deleted. Threads may share a cache.

    <entries>/<name><suffix>    complete entries, renamed into place
    incoming/<random>           entries that are being filled or deleted, and locks of those being filled
    users/<random>              names that one `DiskCache` uses; locked as long as it lives, however its process ends
    """

    def __init__(self, root: Path, limit_bytes: Callable[[], int], *, entries: str = "", suffix: str = "") -> None:
        self.root = root
        self._limit_bytes = limit_bytes
        self._entries = root / entries
        self._suffix = suffix
        self._used: set[str] = set()
        self._user: IO[str] | None = None

    def use(self, names: Iterable[str]) -> None:
        """Protects entries from deletion until `release`, whether they exist or not."""
        with self._locked():
            if self._user is None:
                folder = self.root / "users"
                folder.mkdir(exist_ok=True)
                self._user = _lock(folder / uuid.uuid4().hex)
                weakref.finalize(self, self._user.close)
            self._set_used(self._used | set(names))

    def release(self, names: Iterable[str]) -> None:
        """Ends the protection of entries."""
        if self._user is not None:
            with self._locked():
                self._set_used(self._used - set(names))

    def close(self) -> None:
        """Ends the protection of all entries, as the end of the process does."""
        if self._user is not None:
            with contextlib.suppress(OSError):
                Path(self._user.name).unlink()
            self._user.close()
            self._user = None

    def get(
        self, name: str, size_bytes: int, is_complete: Callable[[Path], bool], fill: Callable[[Path], object]
    ) -> Path:
        """The path of an entry, which the caller uses (`use`). `fill` creates it if it is missing or incomplete.

        `fill` receives a path that does not exist. Other processes that need the same entry wait for it.
        """
        if self._is_complete(name, is_complete):
            return self._place(name)
        incoming = self.scratch()
        with self._filling(name):
            if self._is_complete(name, is_complete):  # another process was first
                return self._place(name)
            with self._locked():
                self._make_room(size_bytes)
            try:
                with self._on_disk():
                    fill(incoming)
                with self._locked():
                    self._delete(self._place(name))
                    self._entries.mkdir(parents=True, exist_ok=True)
                    incoming.rename(self._place(name))
            finally:
                with contextlib.suppress(OSError):  # `_make_room` deletes it later
                    _remove(incoming)
        return self._place(name)

    def forget(self, name: str) -> None:
        """Deletes an entry, for example a damaged one."""
        with self._locked():
            self._delete(self._place(name))

    def scratch(self) -> Path:
        """A new path for a temporary file or folder; the caller deletes it."""
        folder = self.root / "incoming"
        with self._on_disk():
            folder.mkdir(parents=True, exist_ok=True)
        return folder / uuid.uuid4().hex

    def _place(self, name: str) -> Path:
        return self._entries / f"{name}{self._suffix}"

    def _is_complete(self, name: str, is_complete: Callable[[Path], bool]) -> bool:
        with self._on_disk():
            try:
                found = is_complete(self._place(name))
                if found:
                    os.utime(self._place(name))
            except FileNotFoundError:
                return False
        return found

    def _set_used(self, names: set[str]) -> None:
        assert self._user is not None
        self._used = names
        Path(self._user.name).write_text("\n".join(names))

    def _all_used(self) -> set[str]:
        """Names that a live `DiskCache` uses. Raises if that is unknown: no entry may be deleted then."""
        used: set[str] = set(self._used)
        for path in _inside(self.root / "users"):
            if self._user is not None and path == Path(self._user.name):
                continue
            try:
                with _lock(path, wait=False):
                    path.unlink()  # its process has ended
            except BlockingIOError:
                used.update(path.read_text().split())
        return used

    def _make_room(self, needed_bytes: int) -> None:
        for path in _inside(self.root / "incoming"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > ABANDONED_S:
                    _remove(path)
        entries: list[tuple[float, int, Path]] = []
        for path in _inside(self._entries):
            if path.name.endswith(self._suffix):
                with contextlib.suppress(FileNotFoundError):
                    entries.append((path.stat().st_mtime, _size(path), path))
        excess = sum(size for _, size, _ in entries) + needed_bytes - self._limit_bytes()
        if excess <= 0:
            return
        used = {f"{name}{self._suffix}" for name in self._all_used()}
        for _, size, path in sorted(entries):
            if excess > 0 and path.name not in used:
                self._delete(path)
                excess -= size

    def _delete(self, place: Path) -> None:
        """Removes an entry at once: no process sees half of it."""
        away = self.scratch()
        with contextlib.suppress(FileNotFoundError):
            place.rename(away)
            _remove(away)

    @contextlib.contextmanager
    def _locked(self) -> Generator[None]:
        """Locks the whole cache, for short steps only: no other thread or process reads or changes it."""
        with self._on_disk():
            self.root.mkdir(parents=True, exist_ok=True)
            with _lock(self.root / "lock"):
                yield

    @contextlib.contextmanager
    def _filling(self, name: str) -> Generator[None]:
        """Locks one entry: no other thread or process fills it."""
        path = self.root / "incoming" / f"{name}.lock"
        with self._on_disk():
            lock = _lock(path)
        with lock:
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    path.unlink()  # while it is locked: a process that waits for it creates another

    @contextlib.contextmanager
    def _on_disk(self) -> Generator[None]:
        """Converts errors of the file system."""
        try:
            yield
        except OSError as error:
            if error.errno in DISK_FULL:
                raise NoSpace(f"No space left for the cache `{self.root}`.", hint="Free some.") from error
            kind = SystemFailed if error.errno in TRANSIENT else SystemRefused
            raise kind(
                f"The cache `{self.root}` cannot be used: {error.strerror or error} (`{error.filename or 'lock'}`).",
                hint="Point `NANOCHAT_HOME` at a disk that can be written and locked.",
            ) from error


def _lock(path: Path, *, wait: bool = True) -> IO[str]:
    """Opens and locks a file until it is closed; without `wait` raises `BlockingIOError` if it is locked.

    `filelock` does not fit: a lock whose release fails, on a faulty disk, stays locked until its process ends.
    """
    while True:
        file = path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), os.fstat(file.fileno())):  # else another process deleted it
                    return file
        except BaseException:
            file.close()
            raise
        file.close()


def _inside(folder: Path) -> list[Path]:
    """The content of a folder without foreign files; empty if there is no such folder."""
    try:
        return [path for path in folder.iterdir() if not is_foreign(path.name)]
    except FileNotFoundError:
        return []


def _size(path: Path) -> int:
    return sum(stat.st_size for _, stat in walk_files(path)) if path.is_dir() else path.stat().st_size


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
