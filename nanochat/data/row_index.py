"""The index of packed rows: which blocks exist, where, and with how many rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel

from nanochat.data.rows import block_name
from nanochat.errors import BadConfig, BadSource
from nanochat.store.artifacts import Artifact

Split = Literal["train", "validation"]


class Block(BaseModel, frozen=True):
    """A file of packed rows in the store."""

    path: str
    size: int
    sha256: str
    rows: int


class RowIndex(BaseModel, frozen=True):
    """The blocks of all splits; written as JSON for the processes that read the rows."""

    store: str
    """Root URL of the store."""
    cache: str
    """Local folder of the block cache."""
    row_tokens: int
    """T+1."""
    dtype: str
    """dtype of an id: `uint16` or `uint32`."""
    masked: bool
    blocks: dict[Split, list[Block]]


def write_index(artifacts: Sequence[Artifact], folder: Path) -> Path:
    """Writes the index of `Rows` or `Conversations` artifacts; returns its file, for `open_rows`."""
    path = folder / "rows.json"
    path.write_text(index_rows(artifacts).model_dump_json())
    return path


def index_rows(artifacts: Sequence[Artifact]) -> RowIndex:
    """The index of the artifacts' rows, in order. Raises `BadConfig` if they differ in T or dtype."""
    first = artifacts[0]
    shape = (first.metrics["sequence_len"], first.metrics["dtype"])
    blocks: dict[Split, list[Block]] = {"train": [], "validation": []}
    for artifact in artifacts:
        if (other := (artifact.metrics["sequence_len"], artifact.metrics["dtype"])) != shape:
            raise BadConfig(
                f"Rows do not fit together: {first.stage}/{first.key[:8]} has T = {shape[0]} of {shape[1]}, "
                f"{artifact.stage}/{artifact.key[:8]} has T = {other[0]} of {other[1]}.",
                hint="Pack all shards with the same `rows.sequence_len` and vocabulary.",
            )
        files = {file.path: file for file in artifact.manifest.files}
        payload = f"{artifact.manifest.folder}/{artifact.manifest.payload}"
        for split, found in blocks.items():
            rows, step = artifact.metrics[f"{split}_rows"], artifact.metrics["block_rows"]
            for number, begin in enumerate(range(0, rows, step)):
                file = files[block_name(split, number)]
                found.append(
                    Block(
                        path=f"{payload}/{file.path}", size=file.size, sha256=file.sha256, rows=min(step, rows - begin)
                    )
                )
    return RowIndex(
        store=first.store.objects.root,
        cache=str(first.store.payloads.cache_root / "rows"),
        row_tokens=shape[0] + 1,
        dtype=shape[1],
        masked=first.kind == "Conversations",
        blocks=blocks,
    )


class RowSet:
    """The rows of one split. Raises `BadSource` if there are none."""

    def __init__(self, index: RowIndex, split: Split) -> None:
        self.index = index
        self.blocks = index.blocks[split]
        self.row_tokens = index.row_tokens
        """T+1."""
        self.sequence_len = index.row_tokens - 1
        """T."""
        self.dtype = np.dtype(index.dtype).newbyteorder("<")
        self.masked = index.masked
        self._rows = sum(block.rows for block in self.blocks)
        if not self._rows:
            raise BadSource(
                f"The split `{split}` has 0 rows: its text does not fill one row.",
                hint="Add text, hold out more documents (`data.validation_documents`), "
                "or make rows shorter (`rows.sequence_len`).",
            )

    def __len__(self) -> int:
        return self._rows


def open_rows(index: Path, split: Split) -> RowSet:
    """The rows of one split, from the file of an index."""
    return RowSet(RowIndex.model_validate_json(index.read_text()), split)
