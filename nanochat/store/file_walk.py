"""Lists the files below a folder. Anything unreadable is an error: an omitted file would look deleted."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path


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
