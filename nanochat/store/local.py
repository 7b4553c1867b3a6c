"""A store in a folder.

Each object is a file that was written beside its place, flushed and renamed. Disks differ: `create` takes a hard link,
else a rename that replaces nothing, else a lock; a lock is `flock`, else a file that only one can create. Which of them
a disk has is decided by the error that it gives.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import os
import shutil
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import IO

from nanochat.errors import NoSpace, StoreError, StoreUnreachable
from nanochat.store.backend import Entry, Unfinished
from nanochat.store.file_walk import refuse_dangling_link, walk_files
from nanochat.store.object_names import is_foreign, is_hidden
from nanochat.system_errors import DISK_FULL, TRANSIENT

COPY_BYTES = 1 << 20
PART = ".part"
"""Ending of files being written, whose names begin with a dot; never listed."""
LOCK = ".swap.lock"
"""Locked for a change in its folder; stays."""
CLAIM = ".swap.claim"
"""Created for a change in its folder where files cannot be locked; deleted after it."""
CLAIM_S, CLAIM_POLL_S = 10.0, 0.02
"""A claim protects two calls of the system. One that is so old was left by a process that died in between."""

NO_LINKS = {
    errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK, errno.EINVAL,
}  # fmt: skip
NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL, errno.EPERM}


class Folder:
    """The objects in a folder."""

    def __init__(self, folder: Path) -> None:
        self.root = folder.as_uri()
        self._folder = folder

    def local_path(self, path: str) -> Path | None:
        return self._folder / path

    # --- reading --------------------------------------------------------------------------------------------------

    def read(self, path: str) -> bytes:
        with self._reading(path):
            return (self._folder / path).read_bytes()

    def size(self, path: str) -> int | None:
        try:
            with self._reading(path):
                return (self._folder / path).stat().st_size
        except FileNotFoundError:
            return None

    def download(self, path: str, local: Path) -> None:
        with self._reading(path), (self._folder / path).open("rb") as source:
            try:
                with local.open("wb") as target:
                    shutil.copyfileobj(source, target, COPY_BYTES)
            except FileNotFoundError as error:  # of the target: that says nothing about the object
                raise StoreError(f"`{local}` cannot be written: its folder is gone.") from error
            except OSError as error:
                if error.errno in DISK_FULL:  # reading never says so
                    raise NoSpace(f"No space left for `{local}`.", hint="Free some.") from error
                raise

    def list(self, prefix: str, *, everything: bool) -> Iterator[Entry]:
        for path, there in self._files(prefix, _is_unfinished if everything else is_hidden):
            if everything or not is_foreign(path):
                yield Entry(path, there.st_size, there.st_mtime)

    def unfinished(self, prefix: str) -> Iterator[Unfinished]:
        for path, there in self._files(prefix, lambda name: is_hidden(name) and not _is_part(name)):
            if _is_part(path.rpartition("/")[2]):
                yield Unfinished(path, there.st_size, there.st_mtime)

    # --- writing --------------------------------------------------------------------------------------------------

    def write(self, path: str, data: bytes) -> None:
        with self._beside(path) as temporary:
            _write_durably(temporary, data)
            temporary.replace(self._folder / path)

    def create(self, path: str, data: bytes) -> bool:
        with self._beside(path) as temporary:
            _write_durably(temporary, data)
            return self._name(temporary, self._folder / path)

    def swap(self, path: str, data: bytes, expected: bytes) -> bool:
        with self._beside(path) as temporary:
            _write_durably(temporary, data)
            with self._alone(temporary.parent):
                try:
                    if (self._folder / path).read_bytes() != expected:
                        return False
                except FileNotFoundError:
                    return False
                temporary.replace(self._folder / path)
                return True

    def upload(self, local: Path, path: str, *, share: bool) -> None:
        with self._beside(path) as temporary:
            if not (share and _link(local, temporary)):
                shutil.copyfile(local, temporary)
            temporary.replace(self._folder / path)

    def move(self, path: str, to: str) -> bool:
        source, target = self._folder / path, self._folder / to
        if self.size(path) is None:
            return False
        with self._writing():
            try:
                _into(target, lambda: source.replace(target))
            except FileNotFoundError:
                if self.size(path) is None:  # another was first
                    return False
                raise
            except OSError as error:
                if error.errno != errno.EXDEV:  # a part of the store on another disk
                    raise
                self.upload(source, to, share=False)
        self.delete(path)
        return True

    def delete(self, path: str) -> None:
        with self._writing():
            (self._folder / path).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # folders that are empty now go, up to the first that is not
            for folder in Path(path).parents[:-1]:
                (self._folder / folder).rmdir()

    def abandon(self, what: Unfinished) -> None:
        self.delete(what.path)

    # --- opening --------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """A folder is made with the first object in it."""

    def check_swap(self, path: str) -> bool:
        return self.swap(path, b"3", b"1") and not self.swap(path, b"4", b"1")

    # --- inside ---------------------------------------------------------------------------------------------------

    def _files(self, prefix: str, skip: Callable[[str], bool]) -> Iterator[tuple[str, os.stat_result]]:
        with self._reading(prefix):
            for place, there in walk_files(self._folder / prefix, skip):
                yield place.relative_to(self._folder).as_posix(), there

    def _name(self, temporary: Path, target: Path) -> bool:
        """Gives a file its name unless that is taken; whether it did."""
        for way in (os.link, _rename_to_free):
            try:
                way(temporary, target)
            except FileExistsError:
                # over a network, the answer to a first try may have been lost, and only the second refused
                return temporary.exists() and temporary.samefile(target)
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
            else:
                return True
        with self._alone(target.parent):
            if os.path.lexists(target):
                return False
            temporary.replace(target)
            return True

    @contextlib.contextmanager
    def _beside(self, path: str) -> Iterator[Path]:
        """An empty file next to the object, to be filled and renamed; gone afterwards."""
        target = self._folder / path
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}{PART}")
        try:
            with self._writing():
                _into(temporary, lambda: temporary.touch(exist_ok=False))
                yield temporary
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()

    @contextlib.contextmanager
    def _alone(self, folder: Path) -> Iterator[None]:
        """No other process changes an object of this folder by `swap`, or by the last way of `create`."""
        with _open_lock(folder / LOCK) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
            else:
                yield
                return
        _claim(folder / CLAIM)
        try:
            yield
        finally:
            (folder / CLAIM).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _reading(self, path: str) -> Iterator[None]:
        """Turns what the file system says into our errors; `FileNotFoundError` if there is nothing at `path`."""
        try:
            try:
                yield
            except FileNotFoundError:
                refuse_dangling_link(self._folder / path)
                raise
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._error("read", error) from error

    @contextlib.contextmanager
    def _writing(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise self._error("written", error) from error

    def _error(self, verb: str, error: OSError) -> StoreError | NoSpace:
        if error.errno in DISK_FULL:
            return NoSpace(f"No space left for the store {self.root}.", hint="Free some, or choose another `--store`.")
        if error.errno == errno.EROFS:
            return StoreError(f"The store {self.root} is read-only.", hint="Choose another `--store`.")
        where = f" (`{error.filename}`)" if error.filename else ""
        said = f"The store {self.root} cannot be {verb}: {error.strerror or error}{where}."
        if error.errno in TRANSIENT:
            return StoreUnreachable(said, hint="Try again; if that does not help, check the disk.")
        return StoreError(said, hint="Check the folder and its permissions, or choose another `--store`.")


def _is_part(name: str) -> bool:
    return name.startswith(".") and name.endswith(PART)


def _is_unfinished(name: str) -> bool:
    """A file of ours that is no object."""
    return _is_part(name) or name in (LOCK, CLAIM)


def _into(target: Path, do: Callable[[], object]) -> None:
    """Creates the folder of `target` and does; again when another process that emptied the folder removes it."""
    for _ in range(100):
        with contextlib.suppress(FileNotFoundError, FileExistsError):  # mkdir says either when it loses the race
            target.parent.mkdir(parents=True, exist_ok=True)
            do()
            return
    do()


def _link(source: Path, target: Path) -> bool:
    """Replaces `target` by a hard link to `source`; whether the file system could."""
    if source.is_symlink():
        return False
    target.unlink()
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links: it is copied
        return False
    return True


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _rename_to_free(source: Path, target: Path) -> None:
    """Renames, and raises `FileExistsError` when the name is taken: `renameat2` of Linux."""
    here, no_replace = -100, 1
    rename = _renameat2()
    if rename is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if rename(here, os.fsencode(source), here, os.fsencode(target), no_replace):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(source), None, str(target))


@functools.cache
def _renameat2() -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)


def _open_lock(path: Path) -> IO[str]:
    try:
        return path.open("a")
    except PermissionError:  # another user's, in a folder that both may write to: to lock it, reading is enough
        return path.open()


def _claim(path: Path) -> None:
    """Waits until this process has created the file. A claim that does not change for `CLAIM_S` is removed."""
    mine, seen, since = uuid.uuid4().hex, "", time.monotonic()
    while True:
        try:
            with path.open("x") as file:
                file.write(mine)
            return
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):
                now = path.read_text()
                if now != seen:
                    seen, since = now, time.monotonic()
                elif time.monotonic() - since > CLAIM_S:
                    path.rename(path.with_name(f".{mine}{PART}"))  # only one process can
            time.sleep(CLAIM_POLL_S)
