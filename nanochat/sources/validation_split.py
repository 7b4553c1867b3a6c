"""The validation split: which shards are held out whole, and which documents of a shard are held out as a sample.

Documents are chosen by their hashes, so that the split depends on the text and not on its order.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from nanochat.config.data import DataConfig, ShardConfig
from nanochat.errors import BadSource
from nanochat.sources.documents import with_text
from nanochat.sources.file_names import names_validation, quoted_names, stem

SAMPLE_DIVISOR = 10
"""A sample is at most a tenth of a shard's documents, so a shard with fewer documents has none."""
PRUNE_EVERY_BATCHES = 256


def mark_split(shards: Sequence[ShardConfig], config: DataConfig, sampled: str = "") -> tuple[ShardConfig, ...]:
    """Marks what is held out of each shard, and drops training shards beyond `config.train_shards`.

    If no shard is held out whole, a sample of the shard named `sampled` is, or of the first shard if the name is empty.
    """
    held_out = validation_shards(shards, config)
    train = [shard for shard in shards if shard.name not in held_out]
    if not train:
        raise BadSource(
            f"`{config.source}` has no training shard: {quoted_names(held_out)} would be held out whole.",
            hint="Add shards, or rename it so that only a sample is held out.",
        )
    if not held_out:
        index = _index_of(sampled, train, config)
        sample = {"validation": "sample", "validation_documents": config.validation_documents}
        train.insert(0, train.pop(index).model_copy(update=sample))
    train = train[: config.train_shards or len(train)]
    whole = [shard.model_copy(update={"validation": "all"}) for shard in shards if shard.name in held_out]
    return tuple(sorted([*train, *whole], key=lambda shard: shard.name))


def validation_shards(shards: Sequence[ShardConfig], config: DataConfig) -> set[str]:
    """Names of the shards that are held out whole: the configured one, or all whose name means validation."""
    wanted = config.validation_shard
    if not wanted:
        # a split or a single file that the config names is trained on, whatever its name
        by_name = not config.split and len(shards) > 1
        return {
            shard.name for shard in shards if shard.validation == "all" or (by_name and names_validation(shard.name))
        }
    for shard in shards:
        if shard.name in (wanted, stem(wanted)):
            return {shard.name}
    names = quoted_names(shard.name for shard in shards)
    raise BadSource(
        f"`{config.source}` has no shard `{wanted}` to hold out; it has {names}.",
        hint="Name one of them with `data.validation_shard=…`, or leave it empty.",
    )


def _index_of(name: str, train: Sequence[ShardConfig], config: DataConfig) -> int:
    for index, shard in enumerate(train):
        if name in ("", shard.name):
            return index
    raise BadSource(
        f"`{config.source}` no longer has the shard `{name}`, which contains the validation documents of earlier runs; "
        f"it has {quoted_names(shard.name for shard in train)}.",
        hint="Restore it, name a shard to hold out whole with `data.validation_shard=…`, or draw a new sample with "
        "`nanochat fetch --new-split`.",
    )


def choose_sample(shard: ShardConfig, batches: Iterator[pa.StringArray], progress: Callable[[int], None]) -> np.ndarray:
    """Hashes (documents,) uint64 of the documents that are held out of a shard.

    Raises `BadSource` if the shard has too few documents.
    """
    smallest = np.empty(0, np.uint64)
    waiting: list[np.ndarray] = []
    done = count = 0
    for batch in batches:
        waiting.append(document_hashes(with_text(batch)))
        count += len(waiting[-1])
        done += len(batch)
        if len(waiting) == PRUNE_EVERY_BATCHES:
            smallest, waiting = _smallest([smallest, *waiting], shard.validation_documents), []
        progress(done)
    smallest = _smallest([smallest, *waiting], shard.validation_documents)
    sample = smallest_hashes(smallest, shard.validation_documents, count)
    if not done:
        raise BadSource(
            f"`{shard.url}` has no documents, but a sample of it should be held out.",
            hint="Remove it from the source, or name a shard to hold out whole with `data.validation_shard=…`.",
        )
    if count and not len(sample):
        raise BadSource(
            f"`{shard.url}` has only {len(np.unique(smallest))} different documents: "
            "no sample of at most a tenth can be held out.",
            hint="Add text, or name a shard to hold out whole with `data.validation_shard=…`.",
        )
    return sample


def smallest_hashes(hashes: np.ndarray, limit: int, documents: int | None = None) -> np.ndarray:
    """The smallest hashes whose documents are at most `limit` and at most a tenth of all; uint64.

    `hashes` (documents,) uint64 has all hashes, or only the smallest of a shard with `documents` documents. Equal
    documents stay together. The result depends neither on their order nor on other shards.
    """
    values, counts = np.unique(hashes, return_counts=True)
    room = min(limit, (len(hashes) if documents is None else documents) // SAMPLE_DIVISOR)
    chosen: list[int] = []
    for value, count in zip(values, counts, strict=True):
        if room == 0:
            break
        if count <= room:
            chosen.append(value)
            room -= count
    return np.array(chosen, np.uint64)


def _smallest(hashes: Sequence[np.ndarray], limit: int) -> np.ndarray:
    """The smallest hashes, with repetitions: more than a sample needs, but few enough for memory."""
    every = np.concatenate(hashes)
    values = np.unique(every)
    most = 4 * limit + 1024
    return every if len(values) <= most else every[every < values[most]]


def document_hashes(texts: pa.StringArray) -> np.ndarray:
    """The first 8 bytes of each document's SHA-256, as (documents,) uint64."""
    digests = b"".join(hashlib.sha256(text.as_buffer()).digest()[:8] for text in texts)
    return np.frombuffer(digests, "<u8")
