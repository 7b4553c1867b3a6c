"""What the name of a file means: its format, its split, and whether it contains data at all.

The same rules hold for text and conversations, in a folder, below a remote prefix and in a repository of the Hub.
"""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Literal

Split = Literal["train", "validation", "test", ""]

SPLITS_BY_PRIORITY: tuple[Split, ...] = ("test", "validation", "train")
"""If a path names several splits, the first of these counts."""
FORMATS = (".parquet", ".jsonl", ".ndjson", ".json", ".txt")
COMPRESSIONS = (".gz", ".zst", ".bz2", ".xz", ".lz4")
"""May follow a format. Parquet compresses inside: a compressed Parquet file is refused when it is read."""
LINES = (".jsonl", ".ndjson")
TEXT_FORMATS = ((".parquet",), LINES, (".txt",), (".json",))
"""Formats of text, the preferred first: a folder often has the same data in another format too, or a `LICENSE.txt` or
`config.json` beside it."""
CHAT_FORMATS = ((".parquet", *LINES, ".json"),)
"""Formats of conversations: files of all of them are read."""

METADATA = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})
"""Files that the `datasets` library writes beside its data."""
ABOUT = re.compile(r"(?:readme|licen[sc]e|copying|notice|changelog|citation|requirements)\.txt", re.I)
"""Text about the data, beside it."""
JUNK = frozenset({"thumbs.db", "desktop.ini", "lost+found", "$recycle.bin", "system volume information", "@eadir"})
"""Files of operating systems and servers, in lower case."""
CHECKSUM_FILE = re.compile(
    r"(?:(?:.*[-_.])?(?:sha\d*|md5|b2|check)sums?(?:[-_.](?:sha-?\d+|md5|b2))?"
    r"|sha-?\d+|md5|(?:tag)?manifest-(?:sha\d+|md5))(?:\.txt)?|.+\.(?:sha\d+|md5|b2)(?:sums?)?",
    re.I,
)
"""`SHA256SUMS`, `md5sum.txt`, `checksums_sha256.txt`, `a.parquet.sha256`, …"""
SPLIT = re.compile(
    r"(?<![a-z])(?:(?P<train>train(?:ing)?)|(?P<validation>validation[a-z]*|valid|val|dev|held[-_ ]?out|hold[-_ ]?out)"
    r"|(?P<test>tests?|testing|evals?|evaluations?))(?:[-_ ]?(?:set|data|split))?(?![a-z])"
)


def list_formats(formats: Iterable[str]) -> str:
    """Formats for a message."""
    return f"{', '.join(formats)}; all but Parquet also with {', '.join(COMPRESSIONS)}"


SUFFIXES = list_formats(FORMATS)
"""For messages."""


def quoted_names(names: Iterable[str], limit: int = 5) -> str:
    """The first names in order, for a message: `` `a`, `b` and 3 more``."""
    first = sorted(names)
    listed = ", ".join(f"`{name}`" for name in first[:limit])
    return f"{listed} and {len(first) - limit:,} more" if len(first) > limit else listed


def file_format(name: str) -> str:
    """One of `FORMATS`, ignoring case and a compression suffix; empty for any other file."""
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
    """Whether a path, relative to its source, belongs to a tool or an operating system and not to the data."""
    return any(
        part.startswith((".", "_", "~$")) or part.endswith("~") or part.lower() in JUNK
        for part in PurePosixPath(path).parts
    )


def is_checksum_file(name: str) -> bool:
    """Whether a file lists the hashes of other files."""
    return CHECKSUM_FILE.fullmatch(PurePosixPath(name).name) is not None


def split_of(path: str) -> Split:
    """The split that a path, relative to its source, names; empty if it names none.

    A part of the path names a split as a word: `test-00000-of-00002`, `my.val.jsonl`, `testing/`; not `contest` or
    `latest`. Of several splits, test counts before validation, and validation before train.
    """
    found = _splits_of(path)
    for split in SPLITS_BY_PRIORITY:
        if split in found:
            return split
    return ""


def names_validation(path: str) -> bool:
    """Whether any part of a path names the validation split."""
    return "validation" in _splits_of(path)


def _splits_of(path: str) -> set[str | None]:
    parts = PurePosixPath(stem(path).lower()).parts
    return {match.lastgroup for part in parts if (match := SPLIT.search(part))}
