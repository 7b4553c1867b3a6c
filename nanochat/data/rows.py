"""The file format of packed rows: blocks of fixed-width rows of T+1 tokens, each a Parquet file.

A block has a compressed column `row` (fixed_size_binary, T+1 little-endian ids) and, for conversations, a column `mask`
(fixed_size_binary(T+1), 1 where the token is trained on). All blocks of a split but the last are full, so the number of
rows determines the content of each file. `nanochat.data.blocks` reads them.
"""

from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nanochat.errors import BadSource

BLOCK_BYTES = 16 << 20
"""Uncompressed bytes of ids per block."""


def rows_per_block(row_tokens: int, dtype: np.dtype) -> int:
    """Rows of a full block."""
    return max(1, BLOCK_BYTES // (row_tokens * dtype.itemsize))


def block_name(split: str, number: int) -> str:
    """File name of a block in the payload."""
    return f"{split}-{number:05d}.parquet"


class RowWriter:
    """Writes the rows of a split into a folder, one file per block.

    Use it as a context manager: the exit writes the last block, which may not be full.
    """

    def __init__(self, folder: Path, split: str, row_tokens: int, dtype: np.dtype, *, masked: bool = False) -> None:
        self.folder = folder
        self.split = split
        self.row_tokens = row_tokens
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.masked = masked
        self.rows = 0
        """Number of rows so far."""
        self.block_rows = rows_per_block(row_tokens, self.dtype)
        self._blocks = 0
        self._waiting: list[tuple[np.ndarray, ...]] = []
        self._waiting_rows = 0

    def write(self, rows: np.ndarray, masks: np.ndarray | None = None) -> None:
        """Appends ids (N, T+1) of any integer dtype and, for a masked file, masks (N, T+1) of 0 and 1."""
        columns = [np.ascontiguousarray(rows, self.dtype)]
        if self.masked:
            assert masks is not None
            columns.append(np.ascontiguousarray(masks, np.uint8))
        assert all(column.shape == (len(rows), self.row_tokens) for column in columns)
        self.rows += len(rows)
        self._waiting.append(tuple(columns))
        self._waiting_rows += len(rows)
        if self._waiting_rows >= self.block_rows:
            self._flush(self._waiting_rows - self._waiting_rows % self.block_rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None and self._waiting_rows:
            self._flush(self._waiting_rows)

    def _flush(self, count: int) -> None:
        columns = [np.concatenate(parts) for parts in zip(*self._waiting, strict=True)]
        self._waiting = [tuple(column[count:] for column in columns)]
        self._waiting_rows -= count
        for begin in range(0, count, self.block_rows):
            self._write_block([column[begin : min(begin + self.block_rows, count)] for column in columns])

    def _write_block(self, columns: list[np.ndarray]) -> None:
        arrays = [
            pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(self.row_tokens * column.itemsize), len(column), [None, pa.py_buffer(column)]
            )
            for column in columns
        ]
        fields = [
            pa.field(name, array.type, nullable=False)
            for name, array in zip(("row", "mask"), arrays, strict=False)
        ]  # fmt: skip
        schema = pa.schema(fields, metadata={"dtype": self.dtype.name, "row_tokens": str(self.row_tokens)})
        pq.write_table(
            pa.Table.from_arrays(arrays, schema=schema),
            self.folder / block_name(self.split, self._blocks),
            compression="zstd",
            compression_level=1,
            use_dictionary=False,
            write_statistics=False,
        )
        self._blocks += 1


def decode_block(data: bytes, row_tokens: int, dtype: np.dtype, *, masked: bool, name: str) -> tuple[np.ndarray, ...]:
    """Decodes the file of a block: ids (N, T+1) of `dtype` and, for masked rows, masks (N, T+1) uint8.

    Raises `BadSource`, naming the file, if it has another format.
    """
    names = ["row", "mask"][: 1 + masked]
    try:
        table = pq.read_table(pa.BufferReader(data), columns=names, use_threads=False)
        columns = []
        for column, kind in zip(names, (dtype, np.dtype(np.uint8)), strict=False):
            array = table.column(column).combine_chunks()
            if array.type.byte_width != row_tokens * kind.itemsize or array.null_count:
                raise ValueError(f"a row of {array.type.byte_width} bytes instead of {row_tokens * kind.itemsize}")
            columns.append(np.frombuffer(array.buffers()[1], kind, len(array) * row_tokens).reshape(-1, row_tokens))
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise BadSource(f"`{name}` is not a file of packed rows: {str(error).splitlines()[0]}.") from error
    return tuple(columns)
