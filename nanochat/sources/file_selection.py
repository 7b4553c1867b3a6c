"""Which files of a source are read, which are skipped, and why."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Generic, TypeVar

from nanochat.sources import file_names

T = TypeVar("T")


@dataclass(frozen=True)
class SourceFile:
    """A file of a source, or one shard of a stream."""

    path: str
    """Inside the source, with `/`."""
    url: str
    identity: str
    """Changes when the bytes do: their hash (`sha256:…`, `md5:…`), an ETag, a commit, or size and time."""


@dataclass
class SkippedFiles:
    """Paths of files that are not read, by the reason."""

    files: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, path: str) -> None:
        self.files.setdefault(reason, []).append(path)

    def __bool__(self) -> bool:
        return bool(self.files)

    def __str__(self) -> str:
        """For messages: `` 2 hidden (`.a`, `_b`), 1 of a test split (`test.jsonl`)``."""
        return ", ".join(
            f"{len(paths):,} {reason} ({file_names.quoted_names(paths, 3)})" for reason, paths in self.files.items()
        )


@dataclass(frozen=True)
class Selection(Generic[T]):
    """The files of a source, sorted into those that are read and those that are not."""

    files: list[T]
    """Sorted by path; none of a test split."""
    skipped: SkippedFiles
    checksum_files: list[T] = field(default_factory=list)


def select_files(
    files: Iterable[T],
    path_of: Callable[[T], str],
    formats: Sequence[Sequence[str]],
    *,
    skipped: SkippedFiles | None = None,
) -> Selection[T]:
    """Selects the files of the first group of `formats` that has any; `path_of` is relative to the source.

    Skips hidden files, metadata, test splits and all other formats. The selection may be empty: `skipped` has the
    reasons.
    """
    skipped = SkippedFiles() if skipped is None else skipped
    known = [each for group in formats for each in group]
    candidates: dict[str, list[T]] = {}
    checksum_files: list[T] = []
    for file in sorted(files, key=path_of):
        path = path_of(file)
        name = PurePosixPath(path).name
        if file_names.is_hidden(path):
            skipped.add("hidden", path)
        elif file_names.is_checksum_file(name):
            checksum_files.append(file)
        elif name.lower() in file_names.METADATA or file_names.ABOUT.fullmatch(name):
            skipped.add("of metadata", path)
        elif (form := file_names.file_format(path)) not in known:
            skipped.add("of another format", path)
        elif file_names.split_of(path) == "test":
            skipped.add("of a test split", path)
        else:
            candidates.setdefault(form, []).append(file)
    selected: list[T] = []
    for group in formats:
        found = [file for form in group for file in candidates.get(form, [])]
        if selected:
            for file in found:
                skipped.add("of another format", path_of(file))
        selected = selected or sorted(found, key=path_of)
    return Selection(selected, skipped, checksum_files)
