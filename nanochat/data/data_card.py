"""The data card: statistics of a corpus, from the document statistics of its token shards.

It reads neither text nor tokens. Memory is bounded: the hashes of at most `HASHES_AT_ONCE` documents are held at once,
and larger corpora take several passes.
"""

import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nanochat.store.artifacts import Artifact

HASHES_AT_ONCE = 32 << 20
MAX_DOUBLINGS = 32

StatsReader = Callable[[], bytes]
"""Reads one `documents.parquet` (`nanochat.data.document_stats`)."""


def totals(raw: Sequence[Artifact], tokens: Sequence[Artifact], rows: Sequence[Artifact]) -> dict[str, Any]:
    """Sizes and tokens lost in packing, from the metrics of raw shards, token shards and packed rows."""

    def total(shards: Sequence[Artifact], name: str) -> int:
        return sum(int(shard.metrics.get(name, 0)) for shard in shards)

    found: dict[str, Any] = {"shards": len(raw), "skipped_documents": total(raw, "skipped_documents")}
    for split in ("train", "validation"):
        for counted in ("documents", "tokens", "bytes"):
            found[f"{split}_{counted}"] = total(tokens, f"{split}_{counted}")
    every_token = found["train_tokens"] + found["validation_tokens"]
    found["bytes_per_token"] = (found["train_bytes"] + found["validation_bytes"]) / max(every_token, 1)
    found["cropped_share"] = total(rows, "dropped_tokens") / max(every_token, 1)
    row_tokens = sum(
        (int(each.metrics["train_rows"]) + int(each.metrics["validation_rows"])) * (each.metrics["sequence_len"] + 1)
        for each in rows
    )
    found["padded_share"] = total(rows, "padding_tokens") / max(row_tokens, 1)
    return found


def describe(
    readers: Sequence[StatsReader], most_languages: int, progress: Callable[[int], None] = lambda done: None
) -> dict[str, Any]:
    """Documents, lengths, languages and duplicates of token shards, as JSON.

    `lengths[k]` is the number of training documents with at least 2^k and fewer than 2^(k+1) tokens. Every copy of a
    document after the first is a duplicate. Languages are those of a sample; all but the `most_languages` most frequent
    ones are `other`.
    """
    lengths = np.zeros(MAX_DOUBLINGS, np.int64)
    languages: Counter[str] = Counter()
    documents = longest = 0
    sampled = [np.empty(0, np.uint32)]
    for done, reader in enumerate(readers, 1):
        for batch in _training(reader, ["tokens", "language"]):
            tokens = batch.column("tokens").to_numpy()
            documents += len(tokens)
            longest = max(longest, int(tokens.max(initial=0)))
            sampled.append(tokens[:: max(1, len(tokens) // 256)])
            lengths += np.bincount(np.log2(np.maximum(tokens, 1)).astype(np.int64), minlength=MAX_DOUBLINGS)
            for counted in pc.call_function("value_counts", [batch.column("language").drop_null()]).to_pylist():
                languages[counted["values"]] += counted["counts"]
        progress(done)
    named = dict(languages.most_common(most_languages))
    if rest := languages.total() - sum(named.values()):
        named["other"] = rest
    duplicates, leaked = _count_repeated(readers, documents)
    return {
        "lengths": lengths[: int(np.flatnonzero(lengths).max(initial=0)) + 1].tolist(),
        "longest_tokens": longest,
        "median_tokens": int(np.median(np.concatenate(sampled))) if documents else 0,
        "duplicates": duplicates,
        "validation_in_training": leaked,
        "languages": {name: count / languages.total() for name, count in named.items()},
        "languages_of_documents": languages.total(),
    }


def _count_repeated(readers: Sequence[StatsReader], documents: int) -> tuple[int, int]:
    """Number of training documents that equal an earlier one, and that equal a validation document."""
    passes = -(-documents // HASHES_AT_ONCE) or 1
    duplicates = leaked = 0
    for number in range(passes):
        training = _hashes(readers, validation=False, of=(number, passes))
        training.sort()
        duplicates += int((training[1:] == training[:-1]).sum())
        held_out = np.unique(_hashes(readers, validation=True, of=(number, passes)))
        begin, end = (np.searchsorted(training, held_out, side) for side in ("left", "right"))
        leaked += int((end - begin).sum())
    return duplicates, leaked


def _hashes(readers: Iterable[StatsReader], *, validation: bool, of: tuple[int, int]) -> np.ndarray:
    """Hashes (documents,) uint64 of part `of[0]` of `of[1]` equal parts of all hashes."""
    number, parts = of
    found = [np.empty(0, np.uint64)]
    for reader in readers:
        for batch in _batches(reader, ["validation", "hash"]):
            hashes = batch.column("hash").to_numpy()
            wanted = batch.column("validation").to_numpy(zero_copy_only=False) == validation
            found.append(hashes[wanted & (hashes % parts == number)])
    return np.concatenate(found)


def _training(reader: StatsReader, columns: list[str]) -> Iterator[pa.RecordBatch]:
    for batch in _batches(reader, [*columns, "validation"]):
        yield batch.filter(pc.call_function("invert", [batch.column("validation")]))


def _batches(reader: StatsReader, columns: list[str]) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(io.BytesIO(reader())) as parquet:
        yield from parquet.iter_batches(1 << 16, columns=columns)
