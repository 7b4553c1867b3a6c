"""The data card: what the text of a run is like, from what its token shards noted of their documents.

Neither text nor tokens are read, and memory stays bounded: the hashes of at most `HASHES_AT_ONCE` documents are held at
a time, and more are counted in several passes.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

HASHES_AT_ONCE = 32 << 20
MOST_DOUBLINGS = 32

Ledger = Callable[[], bytes]
"""Reads one `documents.parquet`."""


def describe(
    ledgers: Sequence[Ledger], most_languages: int, progress: Callable[[int], None] = lambda done: None
) -> dict[str, Any]:
    """Documents, lengths, languages and duplicates of token shards, as JSON.

    `lengths[k]` training documents have at least 2^k tokens and fewer than 2^(k+1). Of a duplicate, the first counts as
    the original. Of languages, a sample is known; what is rarer than the first `most_languages` is `other`.
    """
    lengths = np.zeros(MOST_DOUBLINGS, np.int64)
    languages: Counter[str] = Counter()
    documents = longest = 0
    sampled = [np.empty(0, np.uint32)]
    for done, ledger in enumerate(ledgers, 1):
        for noted in _training(ledger, ["tokens", "language"]):
            tokens = noted.column("tokens").to_numpy()
            documents += len(tokens)
            longest = max(longest, int(tokens.max(initial=0)))
            sampled.append(tokens[:: max(1, len(tokens) // 256)])
            lengths += np.bincount(np.log2(np.maximum(tokens, 1)).astype(np.int64), minlength=MOST_DOUBLINGS)
            for counted in pc.call_function("value_counts", [noted.column("language").drop_null()]).to_pylist():
                languages[counted["values"]] += counted["counts"]
        progress(done)
    named = dict(languages.most_common(most_languages))
    if rest := languages.total() - sum(named.values()):
        named["other"] = rest
    duplicates, leaked = _repeated(ledgers, documents)
    return {
        "lengths": lengths[: int(np.flatnonzero(lengths).max(initial=0)) + 1].tolist(),
        "longest_tokens": longest,
        "median_tokens": int(np.median(np.concatenate(sampled))) if documents else 0,
        "duplicates": duplicates,
        "validation_in_training": leaked,
        "languages": {name: count / languages.total() for name, count in named.items()},
        "languages_of_documents": languages.total(),
    }


def _repeated(ledgers: Sequence[Ledger], documents: int) -> tuple[int, int]:
    """Training documents that an earlier one equals, and those that a validation document equals."""
    passes = -(-documents // HASHES_AT_ONCE) or 1
    duplicates = leaked = 0
    for number in range(passes):
        training = _hashes(ledgers, validation=False, of=(number, passes))
        training.sort()
        duplicates += int((training[1:] == training[:-1]).sum())
        held_out = np.unique(_hashes(ledgers, validation=True, of=(number, passes)))
        begin, end = (np.searchsorted(training, held_out, side) for side in ("left", "right"))
        leaked += int((end - begin).sum())
    return duplicates, leaked


def _hashes(ledgers: Iterable[Ledger], *, validation: bool, of: tuple[int, int]) -> np.ndarray:
    """(documents,) uint64: those that fall into one of so many equal parts."""
    number, parts = of
    found = [np.empty(0, np.uint64)]
    for ledger in ledgers:
        for noted in _batches(ledger, ["validation", "hash"]):
            hashes = noted.column("hash").to_numpy()
            wanted = noted.column("validation").to_numpy(zero_copy_only=False) == validation
            found.append(hashes[wanted & (hashes % parts == number)])
    return np.concatenate(found)


def _training(ledger: Ledger, columns: list[str]) -> Iterator[pa.RecordBatch]:
    for noted in _batches(ledger, [*columns, "validation"]):
        yield noted.filter(pc.call_function("invert", [noted.column("validation")]))


def _batches(ledger: Ledger, columns: list[str]) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(io.BytesIO(ledger())) as parquet:
        yield from parquet.iter_batches(1 << 16, columns=columns)
