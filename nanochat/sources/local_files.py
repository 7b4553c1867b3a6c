"""The files of a folder of this machine."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from nanochat.errors import BadSource
from nanochat.sources.file_names import Choice, Skipped, Split, choose, file_format, is_hidden, named_formats, split_of


def is_local(source: str) -> bool:
    """Whether a source is a folder or file of this machine."""
    return "://" not in source or source.lower().startswith("file://")


def local_path(source: str) -> Path:
    """Where a local source is. Raises `BadSource` for a `file://` address that says more than a path."""
    if "://" not in source:
        return _expanded(source)
    try:
        parts = urlsplit(source)
    except ValueError:
        parts = None
    if parts is None or parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise BadSource(
            f"`{source}` is not the address of a folder of this machine.",
            hint="It is `file:///…` with three slashes; in it `?` is written `%3F` and `#` is written `%23`.",
        )
    return Path(unquote(parts.path))


@dataclass(frozen=True)
class LocalFile:
    """A file of a folder."""

    path: str
    """Relative to the folder, with `/`."""
    file: Path

    @property
    def split(self) -> Split:
        """What its path says; empty when it says nothing."""
        return split_of(self.path)


def _expanded(source: str) -> Path:
    """The path with `~` and `~user` replaced by the home of the user."""
    try:
        return Path(source).expanduser()
    except RuntimeError as error:
        raise BadSource(
            f"`{source}` cannot be found: the home of `{source.partition('/')[0]}` is not known.",
            hint="Write the path in full, or as `./~…` where the name itself begins with `~`.",
        ) from error


def list_local(place: Path, formats: Sequence[Sequence[str]], hint: str = "") -> Choice[LocalFile]:
    """The files of data below a folder, sorted by path, or the one file that `place` is.

    Raises `BadSource` when there is no such place (`hint` says what else may be meant), when a part of it cannot be
    listed, and when nothing in it is data.
    """
    known = [each for group in formats for each in group]
    try:
        if not stat.S_ISDIR(place.stat().st_mode):
            if file_format(place.name) not in known:
                raise BadSource(f"`{place}` is not a file of data.", hint=f"Known formats: {named_formats(known)}.")
            check_regular(place)
            return Choice([LocalFile(place.name, place)], Skipped())
        skipped = Skipped()
        found = choose(_walk(place, skipped), lambda each: each.path, formats, skipped=skipped)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # a value error: a name with a zero byte
        if place.is_symlink():
            check_regular(place)
        raise BadSource(f"There is no file or folder `{place}`.", hint=hint or "Is the path right?") from error
    except OSError as error:
        raise BadSource(
            f"`{error.filename or place}` cannot be listed: {error.strerror or error}.",
            hint="Correct its permissions, or remove it from the source.",
        ) from error
    if not found.files:
        why = f": it has {found.skipped}" if found.skipped else ""
        raise BadSource(
            f"The folder `{place}` has no file of data{why}.",
            hint=f"Known formats: {named_formats(known)}. Of a test split is read what `source` names itself, the file "
            "or its folder.",
        )
    for each in found.files:
        check_regular(each.file)
    return Choice(_each_once(found.files, skipped), skipped, found.sums)


def check_regular(file: Path) -> None:
    """Raises `BadSource` for what cannot be read like a file: a dead link, a pipe, a socket, a device, a folder."""
    try:
        mode = file.stat().st_mode
    except OSError as error:
        if file.is_symlink():
            raise BadSource(
                f"`{file}` is a link to `{file.readlink()}`, which cannot be followed: {error.strerror}.",
                hint="Put its target back, or remove the link.",
            ) from error
        raise BadSource(f"`{file}` cannot be read: {error.strerror}.") from error
    if not stat.S_ISREG(mode):
        raise BadSource(f"`{file}` is not a regular file.", hint="Copy its data into a file.")


def _walk(root: Path, skipped: Skipped) -> list[LocalFile]:
    """Every file below a folder, those of hidden folders left out.

    Linked folders are followed after everything else, each folder once, and none that contains the link itself.
    """
    found: list[LocalFile] = []
    seen: set[str] = set()
    waiting, links = [root], list[Path]()
    while waiting or links:
        linked = not waiting
        folder = links.pop(0) if linked else waiting.pop()
        real = os.path.realpath(folder)
        if linked and (real in seen or f"{os.path.realpath(folder.parent)}/".startswith(f"{real.rstrip('/')}/")):
            skipped.add("linked twice", f"{_inside(folder, root)}/")
            continue
        if real in seen:
            continue
        seen.add(real)
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda each: each.name):
                path = _inside(Path(entry.path), root)
                if not _is_folder(entry):
                    found.append(LocalFile(path, Path(entry.path)))
                elif is_hidden(path):
                    skipped.add("hidden", f"{path}/")
                else:
                    (links if entry.is_symlink() else waiting).append(Path(entry.path))
    return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself: of no use, which matters only where its name is that of data
        if entry.is_symlink():
            return False
        raise


def _each_once(files: list[LocalFile], skipped: Skipped) -> list[LocalFile]:
    """Without links, soft or hard, to what is there already."""
    first: dict[str, LocalFile] = {}
    for each in sorted(files, key=lambda each: (each.file.is_symlink(), each.path)):
        there = each.file.stat()
        # numbers of files are to be trusted only where a file has several names
        same = f"{there.st_dev} {there.st_ino}" if there.st_nlink > 1 else os.path.realpath(each.file)
        if first.setdefault(same, each) is not each:
            skipped.add("linked twice", each.path)
    return sorted(first.values(), key=lambda each: each.path)


def _inside(path: Path, root: Path) -> str:
    inside = path.relative_to(root).as_posix()
    try:
        inside.encode()
    except UnicodeEncodeError as error:
        raise BadSource(f"The name {inside!r} in `{root}` is not UTF-8.", hint="Rename it.") from error
    return inside
