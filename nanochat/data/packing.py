"""Packs the documents of a token shard into rows of T+1 tokens, best fit.

The Rust crate packs one packing group (some Parquet row groups) at a time. So memory is bounded, and the rows of a
group do not depend on the other groups.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nanochat import _rustbpe
from nanochat.data.rows import RowWriter
from nanochat.data.token_shards import TokenFile
from nanochat.events import Reporter, silent

GROUP_TOKENS = 1 << 24
GROUP_ROWS = 64  # the minimum for long rows: a group drops less than one row


@dataclass(frozen=True)
class Packed:
    """Counts of a packed file."""

    rows: int
    tokens: int
    """Tokens of the file; no row has padding."""
    dropped_tokens: int
    """Tokens at the end of a group that did not fill a row."""
    dtype: np.dtype


def pack_tokens(source: Path, out: Path, split: str, row_tokens: int, progress: Reporter = silent) -> Packed:
    """Packs a token file into the blocks of rows (N, row_tokens) of a split in the folder `out`."""
    file = TokenFile(source)
    done = dropped_tokens = 0
    with RowWriter(out, split, row_tokens, file.dtype) as writer:
        for ids, offsets in packing_groups(file, max(GROUP_TOKENS, GROUP_ROWS * row_tokens)):
            rows, dropped = _rustbpe.pack(ids, offsets, row_tokens)
            writer.write(rows)
            dropped_tokens += dropped
            done += len(ids)
            progress(done, file.tokens, "tokens", "", {"rows": writer.rows})
    return Packed(writer.rows, file.tokens, dropped_tokens, file.dtype)


def packing_groups(file: TokenFile, tokens: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields row groups concatenated to at least `tokens` tokens: ids (tokens,), offsets (documents + 1,) int64."""
    ids: list[np.ndarray] = []
    offsets = [np.zeros(1, np.int64)]
    count = 0
    for group_ids, group_offsets in file.row_groups():
        ids.append(group_ids)
        offsets.append(group_offsets[1:] + count)
        count += len(group_ids)
        if count >= tokens:
            yield np.concatenate(ids), np.concatenate(offsets)
            ids, offsets, count = [], [np.zeros(1, np.int64)], 0
    if ids:
        yield np.concatenate(ids), np.concatenate(offsets)
