"""Packed rows: fixed-width rows of T+1 tokens in Parquet, written once, memory-mapped by whoever trains.

A row file has a column `row` (fixed_size_binary, (T+1) little-endian ids) and, for conversations, a column `mask`
(fixed_size_binary(T+1), 1 where the token is to be learnt). It is ordinary Parquet, but written so that each column of
a row group is a single plain page without nulls or compression: its values are then one contiguous piece of the file,
found from the footer, and a row is a view of the page cache. Files that others wrote in another layout are decoded
into memory instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nanochat.errors import BadConfig, BadSource

ROW_GROUP_BYTES = 16 << 20
ROW_GROUP_ROWS = 16_384  # pyarrow starts a new page after 20,000 rows
PAGE_HEADER_BYTES = 36  # one page's header takes 20 to 30; two headers would be more


class RowWriter:
    """Writes rows to `path`; the file appears with the first of them.

    Use as a context manager: leaving it writes the footer.
    """

    def __init__(self, path: Path, row_tokens: int, dtype: np.dtype, *, masked: bool = False) -> None:
        self.path = path
        self.row_tokens = row_tokens
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.masked = masked
        self.rows = 0
        """Rows given so far."""
        self._widths = [row_tokens * self.dtype.itemsize] + [row_tokens] * masked
        self._group_rows = max(1, min(ROW_GROUP_ROWS, ROW_GROUP_BYTES // self._widths[0]))
        self._schema = pa.schema(
            [
                pa.field(name, pa.binary(width), nullable=False)
                for name, width in zip(self._names, self._widths, strict=True)
            ],
            metadata={"dtype": self.dtype.name, "row_tokens": str(row_tokens)},
        )
        self._waiting: list[tuple[np.ndarray, ...]] = []
        self._waiting_rows = 0
        self._writer: pq.ParquetWriter | None = None

    @property
    def _names(self) -> tuple[str, ...]:
        return ("row", "mask") if self.masked else ("row",)

    def write(self, rows: np.ndarray, masks: np.ndarray | None = None) -> None:
        """Appends rows (N, T+1) of ids and, for a masked file, masks (N, T+1) of 0 and 1."""
        columns = [np.ascontiguousarray(rows, self.dtype)]
        if self.masked:
            assert masks is not None
            columns.append(np.ascontiguousarray(masks, np.uint8))
        assert all(column.shape == (len(rows), self.row_tokens) for column in columns)
        self.rows += len(rows)
        self._waiting.append(tuple(columns))
        self._waiting_rows += len(rows)
        if self._waiting_rows >= self._group_rows:
            self._flush(self._waiting_rows - self._waiting_rows % self._group_rows)

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None and self._waiting_rows:
            self._flush(self._waiting_rows)
        if self._writer is not None:
            self._writer.close()

    def _flush(self, count: int) -> None:
        whole = [np.concatenate(parts) for parts in zip(*self._waiting, strict=True)]
        self._waiting = [tuple(column[count:] for column in whole)]
        self._waiting_rows -= count
        arrays = [
            pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), count, [None, pa.py_buffer(column[:count])])
            for column, width in zip(whole, self._widths, strict=True)
        ]
        if self._writer is None:
            self._writer = pq.ParquetWriter(
                self.path,
                self._schema,
                compression="none",
                use_dictionary=False,
                write_statistics=False,
                data_page_size=1 << 30,
            )
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema), row_group_size=self._group_rows)


class RowFiles:
    """The rows of some files, numbered through in the order of the files.

    Raises `BadSource` if there are no rows or a file is damaged, `BadConfig` if files differ in T or dtype.
    """

    columns = ("row",)

    def __init__(self, files: Sequence[Path], what: str = "rows") -> None:
        self.files = list(files)
        self._segments: list[tuple[np.ndarray, ...]] = []  # a row group each: (N, T+1) per column
        starts = [0]
        shapes: dict[tuple[int, str], Path] = {}
        for file in self.files:
            row_tokens, dtype, segments = _open(file, self.columns)
            shapes.setdefault((row_tokens, dtype.name), file)
            for segment in segments:
                self._segments.append(segment)
                starts.append(starts[-1] + len(segment[0]))
        if starts[-1] == 0:
            raise BadSource(
                f"`{what}` has 0 rows: there is less text than one row takes.",
                hint="Give more text, hold out more documents (`data.validation_documents`), "
                "or make rows shorter (`rows.sequence_len`).",
            )
        if len(shapes) > 1:
            (tokens, name), (other_tokens, other_name) = list(shapes)[:2]
            raise BadConfig(
                f"Rows do not fit together: `{shapes[tokens, name]}` has {tokens} x {name}, "
                f"`{shapes[other_tokens, other_name]}` has {other_tokens} x {other_name}.",
                hint="Pack all shards with the same `rows.sequence_len` and vocabulary.",
            )
        self.row_tokens, dtype_name = next(iter(shapes))
        """T+1."""
        self.sequence_len = self.row_tokens - 1
        """T."""
        self.dtype = np.dtype(dtype_name)
        self._starts = np.asarray(starts, np.int64)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def row(self, index: int) -> np.ndarray:
        """Row `index` (T+1,), a view of the file."""
        segment = int(np.searchsorted(self._starts, index, "right")) - 1
        return self._segments[segment][0][index - self._starts[segment]]

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, ...]:
        """The rows of those indices (B,) as copies, one array (B, T+1) a column."""
        segments = np.searchsorted(self._starts, indices, "right") - 1
        within = indices - self._starts[segments]
        found = tuple(np.empty((len(indices), self.row_tokens), column.dtype) for column in self._segments[0])
        for out, (segment, row) in enumerate(zip(segments.tolist(), within.tolist(), strict=True)):
            for column, source in zip(found, self._segments[segment], strict=True):
                column[out] = source[row]
        return found


class MaskedRowFiles(RowFiles):
    """Rows with a mask (T+1,) uint8: 1 where the token is to be learnt."""

    columns = ("row", "mask")

    def mask(self, index: int) -> np.ndarray:
        """Mask of row `index` (T+1,), a view of the file."""
        segment = int(np.searchsorted(self._starts, index, "right")) - 1
        return self._segments[segment][1][index - self._starts[segment]]


def open_rows(folders: Sequence[Path], split: Literal["train", "validation"]) -> RowFiles:
    """The rows of one split over the payload folders of `Rows`; a shard may have none of it."""
    return RowFiles([file for folder in folders if (file := folder / f"{split}.parquet").exists()], split)


def open_masked_rows(folder: Path, split: Literal["train", "validation"]) -> MaskedRowFiles:
    """The rows and masks of one split of a payload folder of `Conversations`."""
    file = folder / f"{split}.parquet"
    return MaskedRowFiles([file] if file.exists() else [], split)


def _open(file: Path, names: tuple[str, ...]) -> tuple[int, np.dtype, list[tuple[np.ndarray, ...]]]:
    """T+1, the dtype, and a segment per row group: an array (N, T+1) a column."""
    try:
        # closing frees the file descriptor; the mapping lives as long as views of it
        with pq.ParquetFile(file) as parquet, pa.memory_map(str(file)) as mapped:
            metadata, schema = parquet.metadata, parquet.schema_arrow
            footer = {**(schema.metadata or {}), **(metadata.metadata or {})}
            dtype = np.dtype(footer[b"dtype"].decode()).newbyteorder("<")
            row_tokens = schema.field("row").type.byte_width // dtype.itemsize
            dtypes = [np.dtype(np.uint8) if name == "mask" else dtype for name in names]
            segments = [
                tuple(
                    _mapped(metadata, mapped, group, name, row_tokens, column_dtype)
                    if _is_plain(metadata, group, name, row_tokens * column_dtype.itemsize)
                    else _decoded(parquet, group, name, row_tokens, column_dtype)
                    for name, column_dtype in zip(names, dtypes, strict=True)
                )
                for group in range(metadata.num_row_groups)
            ]
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise BadSource(f"`{file}` is not a file of rows ({str(error).splitlines()[0]}).") from error
    return row_tokens, dtype, segments


def _column(metadata: pq.FileMetaData, group: int, name: str) -> pq.ColumnChunkMetaData:
    return metadata.row_group(group).column(metadata.schema.names.index(name))


def _is_plain(metadata: pq.FileMetaData, group: int, name: str, width: int) -> bool:
    """Whether the chunk is one page header and then the values."""
    chunk = _column(metadata, group, name)
    header_bytes = chunk.total_compressed_size - chunk.num_values * width
    required = metadata.schema.column(metadata.schema.names.index(name)).max_definition_level == 0
    return (
        chunk.compression == "UNCOMPRESSED"
        and not chunk.has_dictionary_page
        and required
        and 0 < header_bytes <= PAGE_HEADER_BYTES
    )


def _mapped(
    metadata: pq.FileMetaData, mapped: pa.MemoryMappedFile, group: int, name: str, row_tokens: int, dtype: np.dtype
) -> np.ndarray:
    chunk = _column(metadata, group, name)
    size_bytes = chunk.num_values * row_tokens * dtype.itemsize
    values = mapped.read_at(size_bytes, chunk.data_page_offset + chunk.total_compressed_size - size_bytes)
    return np.frombuffer(values, dtype).reshape(chunk.num_values, row_tokens)


def _decoded(parquet: pq.ParquetFile, group: int, name: str, row_tokens: int, dtype: np.dtype) -> np.ndarray:
    array = parquet.read_row_group(group, columns=[name]).column(0).combine_chunks()
    values = np.frombuffer(array.buffers()[1], dtype)[array.offset * row_tokens :]
    return values[: len(array) * row_tokens].reshape(len(array), row_tokens)
