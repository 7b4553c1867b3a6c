"""Token shards: documents as token ids, in Parquet.

One column `tokens` (binary, little-endian uint16 or uint32), one row per document, each beginning with BOS. A row group
has about `row_group_tokens` tokens and ends between documents. Binary values are read 20 times faster than Parquet's
lists of integers, which are stored as INT32.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nanochat.data.document_stats import DocumentStatsWriter, document_stats_of
from nanochat.errors import BadSource
from nanochat.events import Reporter, silent
from nanochat.tokenizer.bpe import Tokenizer

PENDING_WRITES = 2
"""Row groups that may wait for the thread that compresses them."""


@dataclass(frozen=True)
class Encoded:
    """Counts of a token shard."""

    documents: int
    tokens: int
    text_bytes: int


def write_tokens(
    raw: Path,
    out: Path,
    tokenizer: Tokenizer,
    row_group_tokens: int,
    threads: int,
    progress: Reporter = silent,
    *,
    source: str = "",
    stats: DocumentStatsWriter | None = None,
) -> Encoded:
    """Encodes the documents of a raw file into `out`, holding only a few row groups in memory.

    `threads` threads read and encode, another one compresses. The footer stores `source` (the digest of the raw shard),
    the digest of the vocabulary, the dtype and the counts. `stats` receives the statistics of the documents.
    """
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
    schema = pa.schema([pa.field("tokens", pa.binary(), nullable=False)])
    documents = tokens = text_bytes = 0
    with (
        pq.ParquetWriter(
            out, schema, compression="zstd", compression_level=1, use_dictionary=False, write_statistics=False
        ) as writer,
        ThreadPoolExecutor(1, "writer") as writer_thread,
    ):
        total = pq.read_metadata(raw).num_rows
        waiting = _Documents(dtype)
        writing: deque[Future[None]] = deque()

        def write(group: pa.ChunkedArray) -> None:
            table = pa.Table.from_arrays([group], schema=schema)
            writing.append(writer_thread.submit(writer.write_table, table, max(1, table.num_rows)))
            if len(writing) > PENDING_WRITES:
                writing.popleft().result()

        for batch in tokenizer.encode_parquet(raw, threads=threads, before=tokenizer.bos):
            documents += len(batch)
            tokens += len(batch.ids)
            text_bytes += int(batch.byte_lengths().sum(dtype=np.int64))
            if stats is not None:
                stats.add(document_stats_of(batch, total, validation=out.stem == "validation"))
            waiting.add(batch.ids, batch.offsets)
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
                "source": source,
                "documents": str(documents),
                "tokens": str(tokens),
            }
        )
    return Encoded(documents, tokens, text_bytes)


class _Documents:
    """A queue of documents that wait for their row group; ids are not copied."""

    def __init__(self, dtype: np.dtype) -> None:
        self._dtype = dtype
        self._waiting: deque[tuple[pa.BinaryArray, np.ndarray]] = deque()
        """Documents, and their offsets (documents + 1,) in tokens."""
        self._tokens = 0

    def add(self, ids: np.ndarray, offsets: np.ndarray) -> None:
        """Appends documents: ids (tokens,) and offsets (documents + 1,)."""
        ids = np.ascontiguousarray(ids, self._dtype)
        buffers = [None, pa.py_buffer((offsets * ids.itemsize).astype(np.int32)), pa.py_buffer(ids)]
        array = pa.BinaryArray.from_buffers(pa.binary(), len(offsets) - 1, buffers, null_count=0)
        self._waiting.append((array, offsets))
        self._tokens += len(ids)

    def first(self, tokens: int) -> pa.ChunkedArray | None:
        """Removes and returns the fewest documents with at least `tokens` tokens; None if all have fewer."""
        if self._tokens < tokens:
            return None
        chunks = []
        while tokens > 0:
            array, offsets = self._waiting.popleft()
            cut = min(int(np.searchsorted(offsets, offsets[0] + tokens)), len(array))
            chunks.append(array[:cut])
            taken = int(offsets[cut] - offsets[0])
            tokens -= taken
            self._tokens -= taken
            if cut < len(array):
                self._waiting.appendleft((array[cut:], offsets[cut:]))
        return pa.chunked_array(chunks)

    def all(self) -> pa.ChunkedArray | None:
        return self.first(self._tokens) if self._waiting else None


class TokenFile:
    """One file of a token shard. Raises `BadSource` if it has another format."""

    def __init__(self, path: Path) -> None:
        try:
            with pq.ParquetFile(path) as parquet:
                footer = parquet.metadata.metadata or {}
            self.path = path
            self.dtype = np.dtype(footer[b"dtype"].decode()).newbyteorder("<")
            self.vocabulary = footer[b"vocabulary"].decode()
            """Digest of the vocabulary."""
            self.source = footer[b"source"].decode()
            """Digest of the raw shard."""
            self.documents = int(footer[b"documents"])
            self.tokens = int(footer[b"tokens"])
        except (pa.ArrowException, OSError, KeyError) as error:
            raise BadSource(f"`{path}` is not a file of tokens ({str(error).splitlines()[0]}).") from error

    def row_groups(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields the row groups: ids (tokens,) uint16 or uint32, and offsets (documents + 1,) int64 into them."""
        with pq.ParquetFile(self.path) as parquet:
            for group in range(parquet.metadata.num_row_groups):
                array = parquet.read_row_group(group, columns=["tokens"]).column(0).combine_chunks()
                offsets = np.frombuffer(array.buffers()[1], np.int32)[array.offset :][: len(array) + 1]
                ids = np.frombuffer(array.buffers()[2], self.dtype)
                offsets = offsets.astype(np.int64) // self.dtype.itemsize
                yield ids[offsets[0] : offsets[-1]], offsets - offsets[0]
