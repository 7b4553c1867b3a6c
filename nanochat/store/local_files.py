"""Operations on local files: atomic writes, with what each disk supports, and walks over folders.

Creating a file only if there is none takes a hard link, or a rename that replaces nothing, or a lock. A lock is
`flock`, or a file that only one process can create. The error of a call decides whether the next way is tried.
"""

import contextlib
import ctypes
import errno
import fcntl
import functools
import os
import stat
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import IO

PART = ".part"
"""Suffix of files that are being written; their names begin with a dot, and they are never listed."""
LOCK = ".swap.lock"
"""Locked during a change in its folder; stays."""
CLAIM = ".swap.claim"
"""Exists during a change in its folder, on disks without locks."""
CLAIM_S, CLAIM_POLL_S = 10.0, 0.02
"""A claim protects two system calls. One of this age was left by a process that died in between."""

NO_LINKS = {
    errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK, errno.EINVAL,
}  # fmt: skip
NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL, errno.EPERM}


def rename_if_free(temporary: Path, target: Path) -> bool:
    """Gives a file its final name unless that is taken; returns whether it did."""
    for rename in (os.link, _rename_without_replacing):
        try:
            rename(temporary, target)
        except FileExistsError:
            # over a network, the response to a first attempt may be lost, and only the second refused
            return temporary.exists() and temporary.samefile(target)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
        else:
            return True
    with locked_folder(target.parent):
        if os.path.lexists(target):
            return False
        temporary.replace(target)
        return True


@contextlib.contextmanager
def locked_folder(folder: Path) -> Generator[None]:
    """No other process is in this block for the same folder.

    `filelock` does not fit: a store may be shared by users, and the lock file of another user can only be read; and its
    lock for disks without `flock` is not released when its holder dies.
    """
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


def in_folder(target: Path, do: Callable[[], object]) -> None:
    """Creates the folder of `target` and calls `do`; again if another process deletes the empty folder in between."""
    for _ in range(100):
        with contextlib.suppress(FileNotFoundError, FileExistsError):  # mkdir raises either when it loses the race
            target.parent.mkdir(parents=True, exist_ok=True)
            do()
            return
    do()


def link_copy(source: Path, target: Path) -> bool:
    """Replaces `target` by a hard link to `source`; returns whether the file system could."""
    if source.is_symlink():
        return False
    target.unlink()
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        return False
    return True


def write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _rename_without_replacing(source: Path, target: Path) -> None:
    """Renames with Linux's `renameat2`; raises `FileExistsError` if the name is taken."""
    at_working_folder, no_replace = -100, 1
    rename = _renameat2()
    if rename is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if rename(at_working_folder, os.fsencode(source), at_working_folder, os.fsencode(target), no_replace):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(source), None, str(target))


@functools.cache
def _renameat2() -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)


def _open_lock(path: Path) -> IO[str]:
    try:
        return path.open("a")
    except PermissionError:  # another user's file: read access is enough to lock it
        return path.open()


def _claim(path: Path) -> None:
    """Waits until this process has created the file. Removes one that does not change for `CLAIM_S`."""
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


def walk_files(top: Path, skip: Callable[[str], bool] = lambda name: False) -> Iterator[tuple[Path, os.stat_result]]:
    """Regular files below a folder, links followed; `skip` excludes files and folders by their name.

    Yields nothing for a missing folder, and omits files that are deleted meanwhile. Raises `OSError` for any other
    failure: no permission, a dangling link, a loop of links, a disk error.
    """
    waiting: list[tuple[Path, frozenset[tuple[int, int]]]] = [(top, frozenset())]
    while waiting:
        folder, above = waiting.pop()
        try:
            with os.scandir(folder) as found:
                entries = list(found)
            here = folder.stat()
        except FileNotFoundError:
            refuse_dangling_link(folder)
            continue
        if (here.st_dev, here.st_ino) in above:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(folder))
        for entry in entries:
            if skip(entry.name):
                continue
            place = folder / entry.name
            try:
                there = entry.stat()
            except FileNotFoundError:
                refuse_dangling_link(place)
                continue
            if stat.S_ISDIR(there.st_mode):
                waiting.append((place, above | {(here.st_dev, here.st_ino)}))
            elif stat.S_ISREG(there.st_mode):
                yield place, there


def refuse_dangling_link(path: Path) -> None:
    """Raises `OSError` if a path seems absent because it, or a folder above it, is a dangling link."""
    for place in (path, *path.parents):
        try:
            there = place.lstat()
        except FileNotFoundError:
            continue
        if stat.S_ISLNK(there.st_mode) and not place.exists():
            raise OSError(errno.ENOLINK, "a dangling link", str(place))
        return
