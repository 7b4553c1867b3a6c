"""Writes the payload of a raw shard: its documents, split into training and validation."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nanochat.config.data import ShardConfig, WorldConfig
from nanochat.errors import BadSource
from nanochat.events import Reporter
from nanochat.sources.documents import (
    BATCH_DOCUMENTS,
    from_texts,
    read_documents,
    total_bytes,
    total_characters,
    with_text,
)
from nanochat.sources.file_names import file_format
from nanochat.sources.validation_split import choose_sample, document_hashes
from nanochat.world.documents import documents as generate_documents

ROW_GROUP_DOCUMENTS = 1024
ROW_GROUP_BYTES = 64 << 20
"""A row group ends here at the latest, so that long documents do not fill the memory."""


@dataclass(frozen=True)
class Documents:
    """The documents of a shard. They can be read several times."""

    read: Callable[[], Iterator[pa.StringArray]]
    """Yields batches (documents,) in order, with nulls and empty documents."""
    total: int
    """Number of documents; 0 if unknown."""


def file_documents(file: Path, text_column: str, name: str) -> Documents:
    """The documents of a local file; errors call it `name`."""
    total = 0
    if file_format(file.name) == ".parquet":
        try:
            total = pq.read_metadata(file).num_rows
        except (pa.ArrowException, OSError):
            total = 0  # reading the file raises the proper error
    return Documents(lambda: read_documents(file, text_column, name), total)


def world_documents(world: WorldConfig, shard_index: int) -> Documents:
    """The documents of one shard of the embedded corpus."""
    count = world.documents_per_shard
    return Documents(lambda: from_texts(generate_documents(world.seed, shard_index, count)), count)


def split_documents(shard: ShardConfig, documents: Documents, out: Path, progress: Reporter) -> dict[str, Any]:
    """Writes `train.parquet` and `validation.parquet` into `out`, each only if it has documents; returns the counts."""
    sample = None
    if shard.validation == "sample":
        sample = choose_sample(
            shard,
            documents.read(),
            lambda done: progress(done, documents.total, "documents", "choosing validation documents"),
        )
    skipped = done = 0
    with _Writer(out / "train.parquet") as train, _Writer(out / "validation.parquet") as validation:
        for batch in documents.read():
            done += len(batch)
            texts = with_text(batch)
            skipped += len(batch) - len(texts)
            if sample is not None:
                held = np.isin(document_hashes(texts), sample)
                train.add(texts.filter(pa.array(~held)))
                validation.add(texts.filter(pa.array(held)))
            else:
                (validation if shard.validation == "all" else train).add(texts)
            progress(done, documents.total, "documents")
    if done and train.documents + validation.documents == 0:
        raise BadSource(
            f"`{shard.url}` has no document with text (`{shard.text_column}` is empty in all {done}).",
            hint="Remove it from the source, or name another column with `data.text_column=…`.",
        )
    return {
        "train_documents": train.documents,
        "validation_documents": validation.documents,
        "train_bytes": train.text_bytes,
        "validation_bytes": validation.text_bytes,
        "train_characters": train.characters,
        "skipped_documents": skipped,
    }


class _Writer:
    """Writes row groups of up to 1,024 documents. The file is created with the first row group."""

    def __init__(self, path: Path) -> None:
        self.documents = self.text_bytes = self.characters = 0
        self._path = path
        self._waiting: list[pa.StringArray] = []
        self._waiting_documents = self._waiting_bytes = 0
        self._writer: pq.ParquetWriter | None = None

    def add(self, texts: pa.StringArray) -> None:
        if not len(texts):
            return
        self.documents += len(texts)
        self.text_bytes += total_bytes(texts)
        self.characters += total_characters(texts)
        while len(texts):
            part = texts[: ROW_GROUP_DOCUMENTS - self._waiting_documents]
            self._waiting.append(part)
            self._waiting_documents += len(part)
            self._waiting_bytes += total_bytes(part)
            texts = texts[len(part) :]
            if self._waiting_documents == ROW_GROUP_DOCUMENTS or self._waiting_bytes > ROW_GROUP_BYTES:
                self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None and self._waiting:
            self._flush()
        if self._writer is not None:
            self._writer.close()

    def _flush(self) -> None:
        table = pa.table({"text": pa.chunked_array(self._waiting, pa.string())})
        if self._writer is None:
            self._writer = pq.ParquetWriter(
                self._path,
                table.schema,
                compression="zstd",
                compression_level=3,
                use_dictionary=False,
                write_statistics=False,
            )
        self._writer.write_table(table, row_group_size=ROW_GROUP_DOCUMENTS)
        self._waiting, self._waiting_documents, self._waiting_bytes = [], 0, 0


def write_texts(texts: Iterator[str | None], path: Path, text_column: str) -> None:
    """Writes documents that come over the network to a local file, so that they can be read twice."""
    schema = pa.schema([(text_column, pa.string())])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in from_texts(texts):
            writer.write_table(pa.Table.from_arrays([batch], schema=schema), row_group_size=BATCH_DOCUMENTS)
