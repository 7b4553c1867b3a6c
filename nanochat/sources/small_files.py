"""Combines many small files into few shards.

One shard per small file would leave nothing to train on: the validation sample is at most a tenth of one shard, and
packing drops the end of each shard that does not fill a row. Files are combined only if the first one is too small for
a sample. Whole files are then held out, and the store records which.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat.config.data import DataConfig, ShardConfig
from nanochat.errors import BadSource
from nanochat.sources.documents import read_documents, with_text
from nanochat.sources.file_names import file_format, quoted_names
from nanochat.sources.validation_split import SAMPLE_DIVISOR

SMALL_BYTES = 1 << 20
"""Files below this size are small."""
TINY_BYTES = 4096
"""Files below this size may be shorter than a row."""
MAX_COMBINED_BYTES, MAX_COMBINED_FILES = 16 << 20, 1000
"""A combined shard ends at one of these limits."""
HELD_OUT = "small-files-held-out"


@dataclass(frozen=True)
class CombinedFiles:
    """The shards of a folder with many small files."""

    shards: list[ShardConfig]
    held: tuple[str, ...]
    """Names of the files that are held out; empty if a sample of a large file is held out."""


def too_small_for_a_sample(shards: Sequence[ShardConfig]) -> bool:
    """Whether there are many files and the first has too few documents for a validation sample."""
    if len(shards) < SAMPLE_DIVISOR or not _is_small(shards[0]):
        return False
    return _documents(shards[0]) < SAMPLE_DIVISOR


def are_tiny(shards: Sequence[ShardConfig]) -> bool:
    """Whether there are many files and most of them are too short for one training row."""
    sizes = sorted(Path(shard.url).stat().st_size for shard in shards)
    return len(shards) >= SAMPLE_DIVISOR and sizes[len(sizes) // 2] < TINY_BYTES and too_small_for_a_sample(shards)


def combine_small_files(shards: Sequence[ShardConfig], config: DataConfig, held: Sequence[str]) -> CombinedFiles:
    """Combines small files and keeps large ones as they are.

    Holds out the files named `held`; if none is named and all files are small, a tenth of them. Raises `BadSource` if
    a file of `held` is missing.
    """
    small = [shard for shard in shards if _is_small(shard)]
    large = [shard for shard in shards if not _is_small(shard)]
    if not held and not large:
        limit = max(1, min(len(small) // SAMPLE_DIVISOR, config.validation_documents))
        by_hash = sorted(small, key=lambda shard: hashlib.sha256(shard.name.encode()).digest())
        held = sorted(shard.name for shard in by_hash[:limit])
    if lost := set(held) - {shard.name for shard in shards}:
        raise BadSource(
            f"`{config.source}` no longer has {quoted_names(lost)}, which earlier runs held out for validation.",
            hint="Restore them, or draw a new split with `nanochat fetch --new-split`.",
        )
    out = [shard for shard in small if shard.name in set(held)]
    rest = [shard for shard in small if shard.name not in set(held)]
    groups = [_combine(f"small-files-{i:05d}", group) for i, group in enumerate(_groups(rest))]
    for i, group in enumerate(_groups(out)):
        groups.append(_combine(f"{HELD_OUT}-{i:05d}", group).model_copy(update={"validation": "all"}))
    for shard in large:
        held_out = {"validation": "all"} if shard.name in set(held) else {}
        groups.append(shard.model_copy(update=held_out))
    return CombinedFiles(sorted(groups, key=lambda shard: shard.name), tuple(held))


def first_to_sample(shards: Sequence[ShardConfig]) -> str:
    """The name of the first shard with enough documents to hold out a sample of them.

    If no shard has enough: the first that is not a Parquet file without rows, which some writers leave.
    """
    first = ""
    for shard in shards:
        if file_format(shard.url) == ".parquet" and not _rows(Path(shard.url)):
            continue
        first = first or shard.name
        if not _is_small(shard) or _documents(shard) >= SAMPLE_DIVISOR:
            return shard.name
    return first


def _documents(shard: ShardConfig) -> int:
    return sum(len(with_text(batch)) for batch in read_documents(Path(shard.url), shard.text_column))


def _rows(file: Path) -> int:
    try:
        return pq.read_metadata(file).num_rows
    except (OSError, pa.ArrowException):  # reading the file raises the proper error
        return 1


def _is_small(shard: ShardConfig) -> bool:
    return Path(shard.url).stat().st_size < SMALL_BYTES


def _groups(shards: Sequence[ShardConfig]) -> Iterator[list[ShardConfig]]:
    group: list[ShardConfig] = []
    size = 0
    for shard in shards:
        group.append(shard)
        size += Path(shard.url).stat().st_size
        if size >= MAX_COMBINED_BYTES or len(group) == MAX_COMBINED_FILES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _combine(name: str, group: Sequence[ShardConfig]) -> ShardConfig:
    files = tuple((shard.url, shard.identity) for shard in group)
    digest = hashlib.sha256(repr(files).encode()).hexdigest()[:32]
    return ShardConfig(
        name=name, url=str(Path(group[0].url).parent), identity=digest, files=files, text_column=group[0].text_column
    )
