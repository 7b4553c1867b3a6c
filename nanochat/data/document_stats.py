"""What is known of each document of a token shard, beside its tokens: a hash, its length, roughly its language.

`documents.parquet`, one row a document in the order of the tokens, training before validation; 16 bytes each. The data
card is made of these files alone, so that it reads neither text nor tokens.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

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
"""About so many documents of a file are looked at for their language: a third of a millisecond
each, in which 200 kB are encoded."""
LANGUAGE_BYTES = 400


class Ledger:
    """Writes `documents.parquet`."""

    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(path, SCHEMA, compression="zstd", write_statistics=False)
        self._waiting: list[pa.RecordBatch] = []
        self._documents = 0

    def add(self, noted: pa.RecordBatch) -> None:
        """Documents as `note` notes them."""
        self._waiting.append(noted)
        self._documents += len(noted)
        if self._documents >= ROW_GROUP_DOCUMENTS:
            self._flush()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None and self._waiting:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_batches(self._waiting), self._documents)
        self._waiting, self._documents = [], 0


def note(batch: Batch, of_documents: int, *, validation: bool) -> pa.RecordBatch:
    """Documents of a batch, as the ledger has them; `of_documents` is how many their file has.

    Which documents are looked at for their language depends on their hash: the same text, the same sample.
    """
    hashes = batch.hashes()
    languages: list[str | None] = [None] * len(batch)
    for place in np.flatnonzero(hashes % max(1, of_documents // LANGUAGE_SAMPLE) == 0).tolist():
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
    """The likeliest language of a beginning of text, as ISO 639 has it: `en`, `de`, `zh`; code counts as some."""
    return py3langid.classify(text.decode(errors="ignore"))[0]
