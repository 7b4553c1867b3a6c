"""Statistics of each document of a token shard: a hash, its length, and for a sample its language.

`documents.parquet` has one row per document in the order of the tokens, training before validation; 16 bytes each. The
data card is computed from these files alone, so that it reads neither text nor tokens.
"""

from pathlib import Path
from typing import Self

import numpy as np
import py3langid
import pyarrow as pa
import pyarrow.parquet as pq

from nanochat._rustbpe import Batch

SCHEMA = pa.schema(
    [
        pa.field("validation", pa.bool_(), nullable=False),
        pa.field("hash", pa.uint64(), nullable=False),
        pa.field("bytes", pa.uint32(), nullable=False),
        pa.field("tokens", pa.uint32(), nullable=False),
        pa.field("language", pa.string()),
    ]
)
ROW_GROUP_DOCUMENTS = 1 << 20
LANGUAGE_SAMPLE = 32
"""Documents per file whose language is detected, roughly: one takes as long as encoding 200 kB."""
LANGUAGE_BYTES = 400
"""Bytes of a document that the detection reads."""


class DocumentStatsWriter:
    """Writes `documents.parquet`."""

    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, SCHEMA, compression="zstd", write_statistics=False)
        self._waiting: list[pa.RecordBatch] = []
        self._documents = 0

    def add(self, stats: pa.RecordBatch) -> None:
        """Appends the result of `document_stats_of`."""
        self._waiting.append(stats)
        self._documents += len(stats)
        if self._documents >= ROW_GROUP_DOCUMENTS:
            self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None and self._waiting:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_batches(self._waiting), self._documents)
        self._waiting, self._documents = [], 0


def document_stats_of(batch: Batch, file_documents: int, *, validation: bool) -> pa.RecordBatch:
    """Statistics of the documents of a batch; `file_documents` is the number of documents in their file.

    The sample for language detection depends on the hashes: the same text gives the same sample.
    """
    hashes = batch.hashes()
    languages: list[str | None] = [None] * len(batch)
    for place in np.flatnonzero(hashes % max(1, file_documents // LANGUAGE_SAMPLE) == 0).tolist():
        languages[place] = language(batch.beginning(place, LANGUAGE_BYTES))
    arrays = [
        pa.array(np.full(len(batch), validation)),
        pa.array(hashes),
        pa.array(batch.byte_lengths()),
        pa.array(np.diff(batch.offsets), pa.uint32()),
        pa.array(languages, pa.string()),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def language(text: bytes) -> str:
    """The most likely ISO 639 language of a text: `en`, `de`, `zh`. Source code gets some language too."""
    return py3langid.classify(text.decode(errors="ignore"))[0]
