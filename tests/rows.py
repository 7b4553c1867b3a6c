"""Rows for tests: written as a stage writes them, and indexed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nanochat.data.blocks import BlockReader
from nanochat.data.order import Order
from nanochat.data.row_index import Block, RowIndex, RowSet, Split, open_rows
from nanochat.data.rows import RowWriter, rows_per_block
from nanochat.store.manifest import describe_file


def index_folder(folder: Path, row_tokens: int, dtype: str, counts: dict[Split, int], *, masked: bool = False) -> Path:
    """The index of blocks that lie in a folder, each split with so many rows; written beside them."""
    step = rows_per_block(row_tokens, np.dtype(dtype))
    blocks: dict[Split, list[Block]] = {"train": [], "validation": []}
    for split, rows in counts.items():
        for begin, file in zip(range(0, rows, step), sorted(folder.glob(f"{split}-*.parquet")), strict=True):
            entry = describe_file(file, file.name)
            blocks[split].append(
                Block(path=entry.path, size=entry.size, sha256=entry.sha256, rows=min(step, rows - begin))
            )
    index = RowIndex(
        store=folder.as_uri(), cache=str(folder / "cache"), row_tokens=row_tokens, dtype=dtype, masked=masked,
        blocks=blocks,
    )  # fmt: skip
    path = folder / "rows.json"
    path.write_text(index.model_dump_json())
    return path


def write_rows(folder: Path, masks: np.ndarray | None = None, **splits: np.ndarray) -> Path:
    """Writes rows (N, T+1) of `train` and `validation`, all with the same masks if any; returns their index."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        with RowWriter(folder, split, rows.shape[1], rows.dtype, masked=masks is not None) as writer:
            writer.write(rows, masks)
    first = next(iter(splits.values()))
    counts = {split: len(rows) for split, rows in splits.items()}
    return index_folder(folder, first.shape[1], first.dtype.name, counts, masked=masks is not None)  # pyright: ignore


def train_rows(folder: Path, rows: np.ndarray, masks: np.ndarray | None = None) -> RowSet:
    """Writes them and opens them."""
    return open_rows(write_rows(folder, masks, train=rows), "train")


def every(rows: RowSet) -> tuple[np.ndarray, ...]:
    """All rows (N, T+1), in order; and their masks."""
    order = Order([block.rows for block in rows.blocks], None, 1 << 40)
    reader = BlockReader(rows, order.groups(0, len(rows)))
    try:
        blocks, within, _ = order.find(np.arange(len(rows)))
        return reader.take(blocks, within, 0)
    finally:
        reader.close()
