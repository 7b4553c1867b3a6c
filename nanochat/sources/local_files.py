"""Files and folders of this machine as sources."""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from nanochat.errors import BadSource
from nanochat.sources.file_names import Split, file_format, is_hidden, list_formats, split_of
from nanochat.sources.file_selection import Selection, SkippedFiles, select_files


def is_local(source: str) -> bool:
    """Whether a source is a folder or file of this machine."""
    return "://" not in source or source.lower().startswith("file://")


def local_path(source: str) -> Path:
    """The path of a local source. Raises `BadSource` for a `file://` address with a host, query or fragment."""
    if "://" not in source:
        return _expanded(source)
    try:
        parts = urlsplit(source)
    except ValueError:
        parts = None
    if parts is None or parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise BadSource(
            f"`{source}` is not the address of a folder of this machine.",
            hint="Write `file:///…` with three slashes, `?` as `%3F` and `#` as `%23`.",
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
        """The split that its path names; empty if it names none."""
        return split_of(self.path)


def _expanded(source: str) -> Path:
    """The path with `~` and `~user` replaced by the home of the user."""
    try:
        return Path(source).expanduser()
    except RuntimeError as error:
        raise BadSource(
            f"`{source}` cannot be found: `{source.partition('/')[0]}` has no home folder.",
            hint="Write the full path; if the name itself begins with `~`, write `./~…`.",
        ) from error


def list_local(place: Path, formats: Sequence[Sequence[str]], hint: str = "") -> Selection[LocalFile]:
    """The data files below the folder `place`, sorted by path, or the file `place` itself.

    Raises `BadSource` if `place` does not exist (with `hint`), if a part of it cannot be listed, or if it has no data
    file.
    """
    known = [each for group in formats for each in group]
    try:
        if not stat.S_ISDIR(place.stat().st_mode):
            if file_format(place.name) not in known:
                raise BadSource(f"`{place}` is not a data file.", hint=f"Known formats: {list_formats(known)}.")
            check_regular(place)
            return Selection([LocalFile(place.name, place)], SkippedFiles())
        skipped = SkippedFiles()
        found = select_files(_walk(place, skipped), lambda each: each.path, formats, skipped=skipped)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a zero byte in the name
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
            f"The folder `{place}` has no data file{why}.",
            hint=f"Known formats: {list_formats(known)}. A test split is read only if `source` names "
            "its file or folder itself.",
        )
    for each in found.files:
        check_regular(each.file)
    return Selection(_without_duplicates(found.files, skipped), skipped, found.checksum_files)


def check_regular(file: Path) -> None:
    """Raises `BadSource` for anything but a regular file: a broken link, a pipe, a socket, a device, a folder."""
    try:
        mode = file.stat().st_mode
    except OSError as error:
        if file.is_symlink():
            raise BadSource(
                f"`{file}` is a link to `{file.readlink()}`, which cannot be read: {error.strerror}.",
                hint="Restore its target, or remove the link.",
            ) from error
        raise BadSource(f"`{file}` cannot be read: {error.strerror}.") from error
    if not stat.S_ISREG(mode):
        raise BadSource(f"`{file}` is not a regular file.", hint="Copy its data into a file.")


def _walk(root: Path, skipped: SkippedFiles) -> list[LocalFile]:
    """Every file below a folder, without hidden folders.

    Linked folders are followed last, each folder once, and never one that contains the link itself.
    """
    found: list[LocalFile] = []
    seen: set[str] = set()
    waiting, links = [root], list[Path]()
    while waiting or links:
        linked = not waiting
        folder = links.pop(0) if linked else waiting.pop()
        real = os.path.realpath(folder)
        if linked and (real in seen or f"{os.path.realpath(folder.parent)}/".startswith(f"{real.rstrip('/')}/")):
            skipped.add("linked twice", f"{_relative(folder, root)}/")
            continue
        if real in seen:
            continue
        seen.add(real)
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda each: each.name):
                path = _relative(Path(entry.path), root)
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
    except OSError:  # a link to itself: treated as a file, which matters only if its name is one of data
        if entry.is_symlink():
            return False
        raise


def _without_duplicates(files: list[LocalFile], skipped: SkippedFiles) -> list[LocalFile]:
    """Each file once, without symbolic or hard links to another one in the list."""
    first: dict[str, LocalFile] = {}
    for each in sorted(files, key=lambda each: (each.file.is_symlink(), each.path)):
        status = each.file.stat()
        # inode numbers are reliable only for files with several names
        same = f"{status.st_dev} {status.st_ino}" if status.st_nlink > 1 else os.path.realpath(each.file)
        if first.setdefault(same, each) is not each:
            skipped.add("linked twice", each.path)
    return sorted(first.values(), key=lambda each: each.path)


def _relative(path: Path, root: Path) -> str:
    relative = path.relative_to(root).as_posix()
    try:
        relative.encode()
    except UnicodeEncodeError as error:
        raise BadSource(f"The name {relative!r} in `{root}` is not UTF-8.", hint="Rename it.") from error
    return relative
