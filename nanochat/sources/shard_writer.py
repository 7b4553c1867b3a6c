"""The payload of a raw shard: its documents, checked and split into training and validation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

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
from nanochat.world.documents import documents as tell

ROW_GROUP_DOCUMENTS = 1024
ROW_GROUP_BYTES = 64 << 20
"""A row group of long documents has fewer."""
PRUNE_EVERY_BATCHES = 256
SAMPLE_SHARE = 10  # a tenth at most is held out


@dataclass(frozen=True)
class Documents:
    """The documents of a shard, which can be read several times."""

    read: Callable[[], Iterator[pa.StringArray]]
    """Batches in order; nulls and empty documents included."""
    total: int
    """How many there are; 0 when nobody knows."""


def file_documents(file: Path, text_column: str, name: str) -> Documents:
    """Those of a local file that errors call `name`."""
    total = 0
    if file_format(file.name) == ".parquet":
        try:
            total = pq.read_metadata(file).num_rows
        except (pa.ArrowException, OSError):
            total = 0  # reading says what is wrong
    return Documents(lambda: read_documents(file, text_column, name), total)


def world_documents(world: WorldConfig, shard_index: int) -> Documents:
    """Those of one shard of the embedded corpus."""
    count = world.documents_per_shard
    return Documents(lambda: from_texts(tell(world.seed, shard_index, count)), count)


def split_documents(shard: ShardConfig, documents: Documents, out: Path, progress: Reporter) -> dict[str, Any]:
    """Writes `train.parquet` and `validation.parquet` into `out`, each only if it has documents; returns the counts."""
    sample = _choose(shard, documents, progress) if shard.validation == "sample" else None
    skipped = done = 0
    with _Writer(out / "train.parquet") as train, _Writer(out / "validation.parquet") as validation:
        for batch in documents.read():
            done += len(batch)
            texts = with_text(batch)
            skipped += len(batch) - len(texts)
            if sample is not None:
                held = np.isin(_hashes(texts), sample)
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


def held_out(hashes: np.ndarray, limit: int, documents: int | None = None) -> np.ndarray:
    """Which hashes are held out: the smallest, while their documents are at most `limit` and a tenth of all.

    `hashes` (documents,) uint64, or the smallest of so many `documents`; equal documents stay together. Depends on
    neither order nor other shards.
    """
    values, counts = np.unique(hashes, return_counts=True)
    room = min(limit, (len(hashes) if documents is None else documents) // SAMPLE_SHARE)
    chosen: list[int] = []
    for value, count in zip(values, counts, strict=True):
        if room == 0:
            break
        if count <= room:
            chosen.append(value)
            room -= count
    return np.array(chosen, np.uint64)


def _choose(shard: ShardConfig, documents: Documents, progress: Reporter) -> np.ndarray:
    smallest = np.empty(0, np.uint64)
    waiting: list[np.ndarray] = []
    done = count = 0
    for batch in documents.read():
        waiting.append(_hashes(with_text(batch)))
        count += len(waiting[-1])
        done += len(batch)
        if len(waiting) == PRUNE_EVERY_BATCHES:
            smallest, waiting = _smallest([smallest, *waiting], shard.validation_documents), []
        progress(done, documents.total, "documents", "choosing validation documents")
    smallest = _smallest([smallest, *waiting], shard.validation_documents)
    chosen = held_out(smallest, shard.validation_documents, count)
    if not done:
        raise BadSource(
            f"`{shard.url}` has no documents, of which a sample was to be held out.",
            hint="Remove it from the source, or name a shard to hold out whole with `data.validation_shard=…`.",
        )
    if count and not len(chosen):
        raise BadSource(
            f"`{shard.url}` has only {len(np.unique(smallest))} different documents: "
            "no sample of at most a tenth can be held out.",
            hint="Give more text, or name a shard to hold out whole with `data.validation_shard=…`.",
        )
    return chosen


def _smallest(hashes: Sequence[np.ndarray], limit: int) -> np.ndarray:
    """More of the smallest than can be chosen, each as often as it is there: what a large shard need not keep goes."""
    every = np.concatenate(hashes)
    values = np.unique(every)
    most = 4 * limit + 1024
    return every if len(values) <= most else every[every < values[most]]


def _hashes(texts: pa.StringArray) -> np.ndarray:
    """The first 8 bytes of each document's SHA-256 (documents,) uint64."""
    digests = b"".join(hashlib.sha256(text.as_buffer()).digest()[:8] for text in texts)
    return np.frombuffer(digests, "<u8")


class _Writer:
    """Row groups of 1,024 documents, fewer of long ones; the file appears with the first of them."""

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

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
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
    """A local copy of documents that come over the network, so that they can be read twice."""
    schema = pa.schema([(text_column, pa.string())])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in from_texts(texts):
            writer.write_table(pa.Table.from_arrays([batch], schema=schema), row_group_size=BATCH_DOCUMENTS)
