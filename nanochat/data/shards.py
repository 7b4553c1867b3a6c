"""Token shards: raw documents to token ids, in Parquet.

One column `tokens` (binary, little-endian uint16 or uint32), a document a row, each beginning with BOS. A row group is
about `row_group_tokens` tokens, cut between documents. Bytes are read back 20 times faster than Parquet's lists of
integers, which it stores as INT32.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nanochat.data.documents import total_bytes
from nanochat.errors import BadSource
from nanochat.progress import Progress, silent
from nanochat.tokenizer.bpe import Tokenizer

READ_DOCUMENTS = 2048
WRITES_BEHIND = 2
T = TypeVar("T")


@dataclass(frozen=True)
class Encoded:
    """What a token shard holds."""

    documents: int
    tokens: int
    text_bytes: int


def write_tokens(
    raw: Path, out: Path, tokenizer: Tokenizer, row_group_tokens: int, threads: int, progress: Progress = silent
) -> Encoded:
    """Encodes the documents of a raw file into `out`; memory is bounded by a few row groups and batches of documents.

    A thread reads ahead and another compresses what is done, while `threads` encode.
    """
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
    schema = pa.schema([pa.field("tokens", pa.binary(), nullable=False)])
    documents = tokens = text_bytes = 0
    with (
        pq.ParquetFile(raw) as texts,
        pq.ParquetWriter(
            out, schema, compression="zstd", compression_level=1, use_dictionary=False, write_statistics=False
        ) as writer,
        ThreadPoolExecutor(1, "reader") as reader,
        ThreadPoolExecutor(1, "writer") as behind,
    ):
        total = texts.metadata.num_rows
        waiting = _Documents(dtype)
        writing: deque[Future[None]] = deque()

        def write(group: pa.BinaryArray) -> None:
            writing.append(behind.submit(writer.write_table, pa.Table.from_arrays([group], schema=schema)))
            if len(writing) > WRITES_BEHIND:
                writing.popleft().result()

        for batch in _ahead(texts.iter_batches(READ_DOCUMENTS, columns=["text"], use_threads=False), reader):
            column = batch.column(0)
            ids, offsets = tokenizer.encode_batch(column, threads=threads, before=tokenizer.bos)
            documents += len(column)
            tokens += len(ids)
            text_bytes += total_bytes(column)
            waiting.add(ids, offsets)
            while (group := waiting.first(row_group_tokens)) is not None:
                write(group)
            progress(documents, total, "documents", "", {"tokens": tokens})
        if (group := waiting.all()) is not None:
            write(group)
        while writing:
            writing.popleft().result()
        writer.add_key_value_metadata(
            {
                "dtype": dtype.name,
                "vocabulary": tokenizer.digest,
                "documents": str(documents),
                "tokens": str(tokens),
            }
        )
    return Encoded(documents, tokens, text_bytes)


def _ahead(items: Iterator[T], pool: ThreadPoolExecutor) -> Iterator[T]:
    """The items; the next one is made by a thread of the pool while the one before is used."""
    coming = pool.submit(next, items, None)
    while (item := coming.result()) is not None:
        coming = pool.submit(next, items, None)
        yield item


class _Documents:
    """Documents that wait for their row group."""

    def __init__(self, dtype: np.dtype) -> None:
        self._ids = np.empty(0, dtype)
        self._offsets = np.zeros(1, np.int64)

    def add(self, ids: np.ndarray, offsets: np.ndarray) -> None:
        """Appends documents: ids (tokens,) and where each begins and ends (documents + 1,)."""
        self._offsets = np.concatenate([self._offsets, len(self._ids) + np.asarray(offsets[1:], np.int64)])
        self._ids = np.concatenate([self._ids, np.asarray(ids, self._ids.dtype)])

    def first(self, tokens: int) -> pa.BinaryArray | None:
        """The fewest documents that have so many tokens; None if all have fewer."""
        if len(self._ids) < tokens:
            return None
        return self._take(int(np.searchsorted(self._offsets, tokens)))

    def all(self) -> pa.BinaryArray | None:
        return self._take(len(self._offsets) - 1) if len(self._offsets) > 1 else None

    def _take(self, documents: int) -> pa.BinaryArray:
        end = self._offsets[documents]
        offsets = (self._offsets[: documents + 1] * self._ids.itemsize).astype(np.int32)
        values = self._ids[:end].copy()
        self._ids, self._offsets = self._ids[end:], self._offsets[documents:] - end
        return pa.BinaryArray.from_buffers(
            pa.binary(), documents, [None, pa.py_buffer(offsets), pa.py_buffer(values)], null_count=0
        )


class TokenFile:
    """One file of a token shard, open for reading. Raises `BadSource` if it is not one."""

    def __init__(self, path: Path) -> None:
        try:
            with pq.ParquetFile(path) as parquet:
                footer = parquet.metadata.metadata or {}
            self.path = path
            self.dtype = np.dtype(footer[b"dtype"].decode()).newbyteorder("<")
            self.vocabulary = footer[b"vocabulary"].decode()
            """Digest of the vocabulary."""
            self.documents = int(footer[b"documents"])
            self.tokens = int(footer[b"tokens"])
        except (pa.ArrowException, OSError, KeyError) as error:
            raise BadSource(f"`{path}` is not a file of tokens ({str(error).splitlines()[0]}).") from error

    def row_groups(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Per row group: ids (tokens,) uint16 or uint32, and offsets (documents + 1,) int64 into them, from 0."""
        with pq.ParquetFile(self.path) as parquet:
            for group in range(parquet.metadata.num_row_groups):
                array = parquet.read_row_group(group, columns=["tokens"]).column(0).combine_chunks()
                offsets = np.frombuffer(array.buffers()[1], np.int32)[array.offset :][: len(array) + 1]
                ids = np.frombuffer(array.buffers()[2], self.dtype)
                offsets = offsets.astype(np.int64) // self.dtype.itemsize
                yield ids[offsets[0] : offsets[-1]], offsets - offsets[0]
