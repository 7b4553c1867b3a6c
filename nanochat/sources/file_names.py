"""What the name of a file says: its format, its split, and whether it is data at all.

The same rules for text and conversations, in a folder, below a remote prefix, and in a repository of the Hub.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Generic, Literal, TypeVar

T = TypeVar("T")
Split = Literal["train", "validation", "test", ""]

BY_CAUTION: tuple[Split, ...] = ("test", "validation", "train")
"""Of a path that names several splits, the first of these counts."""
FORMATS = (".parquet", ".jsonl", ".ndjson", ".json", ".txt")
COMPRESSIONS = (".gz", ".zst", ".bz2", ".xz", ".lz4")
"""May follow a format. Parquet compresses inside: such a file is refused when it is read."""
LINES = (".jsonl", ".ndjson")
TEXT_FORMATS = ((".parquet",), LINES, (".txt",), (".json",))
"""Formats of text, the preferred first: beside the data often lies the same data in another format, a `LICENSE.txt` or
a `config.json`."""
CHAT_FORMATS = ((".parquet", *LINES, ".json"),)
"""Formats of conversations: all of them are read."""

METADATA = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})
"""Written by the `datasets` library beside its data."""
ABOUT = re.compile(r"(?:readme|licen[sc]e|copying|notice|changelog|citation|requirements)\.txt", re.I)
"""Text about the data, beside it."""
JUNK = frozenset({"thumbs.db", "desktop.ini", "lost+found", "$recycle.bin", "system volume information", "@eadir"})
"""Written by operating systems and servers, in lower case."""
SUMS = re.compile(
    r"(?:(?:.*[-_.])?(?:sha\d*|md5|b2|check)sums?(?:[-_.](?:sha-?\d+|md5|b2))?"
    r"|sha-?\d+|md5|(?:tag)?manifest-(?:sha\d+|md5))(?:\.txt)?|.+\.(?:sha\d+|md5|b2)(?:sums?)?",
    re.I,
)
"""Files that list the hashes of others: `SHA256SUMS`, `md5sum.txt`, `checksums_sha256.txt`, `a.parquet.sha256`."""
SPLIT = re.compile(
    r"(?<![a-z])(?:(?P<train>train(?:ing)?)|(?P<validation>validation[a-z]*|valid|val|dev|held[-_ ]?out|hold[-_ ]?out)"
    r"|(?P<test>tests?|testing|evals?|evaluations?))(?:[-_ ]?(?:set|data|split))?(?![a-z])"
)


def named_formats(formats: Iterable[str]) -> str:
    """Formats for a message."""
    return f"{', '.join(formats)}; all but Parquet also with {', '.join(COMPRESSIONS)}"


SUFFIXES = named_formats(FORMATS)
"""For messages."""


def file_format(name: str) -> str:
    """One of `FORMATS`, without regard to case and to a suffix of compression; empty for another file."""
    suffixes = [suffix.lower() for suffix in PurePosixPath(name).suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in FORMATS else ""


def stem(name: str) -> str:
    """The name without its format: `a/shard_0.jsonl.gz` → `a/shard_0`."""
    low = name.lower()
    for compression in ("", *COMPRESSIONS):
        for suffix in FORMATS:
            if low.endswith(suffix + compression):
                return name[: -len(suffix + compression)]
    return name


def is_hidden(path: str) -> bool:
    """Whether a path, relative to its source, is of a tool or an operating system and not of the data."""
    return any(
        part.startswith((".", "_", "~$")) or part.endswith("~") or part.lower() in JUNK
        for part in PurePosixPath(path).parts
    )


def is_sums(name: str) -> bool:
    """Whether a file lists the hashes of others."""
    return SUMS.fullmatch(PurePosixPath(name).name) is not None


def split_of(path: str) -> Split:
    """The split that a path names, relative to its source: test or validation, if any of its parts does, else train.

    A part names a split as a word: `test-00000-of-00002`, `my.val.jsonl`, `testing/`; not `contest` or `latest`.
    """
    found = _splits_of(path)
    for split in BY_CAUTION:
        if split in found:
            return split
    return ""


def names_validation(path: str) -> bool:
    """Whether any part of a path names the validation split."""
    return "validation" in _splits_of(path)


def _splits_of(path: str) -> set[str | None]:
    parts = PurePosixPath(stem(path).lower()).parts
    return {match.lastgroup for part in parts if (match := SPLIT.search(part))}


@dataclass
class Skipped:
    """Files of a source that are not read, by the reason."""

    files: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, path: str) -> None:
        self.files.setdefault(reason, []).append(path)

    def __bool__(self) -> bool:
        return bool(self.files)

    def __str__(self) -> str:
        """For example `2 hidden (`.a`, `_b`), 1 of a test split (`test.jsonl`)`."""
        return ", ".join(f"{len(paths):,} {reason} ({named(paths, 3)})" for reason, paths in self.files.items())


def named(names: Iterable[str], limit: int = 5) -> str:
    """The first names of a list, for a message."""
    first = sorted(names)
    listed = ", ".join(f"`{name}`" for name in first[:limit])
    return f"{listed} and {len(first) - limit:,} more" if len(first) > limit else listed


@dataclass(frozen=True)
class Choice(Generic[T]):
    """Which files of a source are read, and which are not."""

    files: list[T]
    """Sorted by path; none of a test split."""
    skipped: Skipped
    sums: list[T] = field(default_factory=list)
    """Files that list the hashes of others."""


def choose(
    files: Iterable[T],
    path_of: Callable[[T], str],
    formats: Sequence[Sequence[str]],
    *,
    by_split: bool = True,
    skipped: Skipped | None = None,
) -> Choice[T]:
    """The files that are data, by their paths relative to the source: of the first group of `formats` that there is.

    Hidden files are not, nor are those of other formats, nor test splits, unless the split was chosen before
    (`by_split=False`). The result may be empty: `skipped` then says why.
    """
    skipped = Skipped() if skipped is None else skipped
    known = [each for group in formats for each in group]
    candidates: dict[str, list[T]] = {}
    sums: list[T] = []
    for file in sorted(files, key=path_of):
        path = path_of(file)
        name = PurePosixPath(path).name
        if is_hidden(path):
            skipped.add("hidden", path)
        elif is_sums(name):
            sums.append(file)
        elif name.lower() in METADATA or ABOUT.fullmatch(name):
            skipped.add("of metadata", path)
        elif (form := file_format(path)) not in known:
            skipped.add("of another format", path)
        elif by_split and split_of(path) == "test":
            skipped.add("of a test split", path)
        else:
            candidates.setdefault(form, []).append(file)
    chosen: list[T] = []
    for group in formats:
        there = [file for form in group for file in candidates.get(form, [])]
        if chosen:
            for file in there:
                skipped.add("of another format", path_of(file))
        chosen = chosen or sorted(there, key=path_of)
    return Choice(chosen, skipped, sums)
