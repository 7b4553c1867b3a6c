"""The vocabulary: byte-pair encoding learnt from the training documents."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nanochat.config.data import TokenizerConfig
from nanochat.execution.stage import Context, Metrics, stage
from nanochat.sources.documents import open_parquet, total_bytes, total_characters
from nanochat.store.artifacts import RawShard, Vocabulary
from nanochat.tokenizer.bpe import Tokenizer

SAMPLE_CHARACTERS = 2_000_000
"""How much text bytes per token are measured on."""


def first_texts(files: Sequence[Path], document_characters: int, max_characters: int) -> Iterator[pa.StringArray]:
    """Batches of documents in order, each cut to `document_characters`, until there are `max_characters`."""
    left = max_characters
    for file in files:
        with open_parquet(file) as parquet:
            for batch in parquet.iter_batches(1024, columns=["text"]):
                texts = pc.call_function(
                    "utf8_slice_codeunits", [batch.column(0)], pc.SliceOptions(0, document_characters)
                )
                characters = np.cumsum(pc.call_function("utf8_length", [texts]).to_numpy())
                enough = int(np.searchsorted(characters, left)) + 1  # the document that reaches the limit is the last
                yield texts[:enough]
                if enough <= len(texts):
                    return
                left -= int(characters[-1])


def bytes_per_token(tokenizer: Tokenizer, files: Sequence[Path], document_characters: int, threads: int) -> float:
    """UTF-8 bytes a token, on the first two million characters."""
    text_bytes = tokens = 0
    for texts in first_texts(files, document_characters, SAMPLE_CHARACTERS):
        text_bytes += total_bytes(texts)
        tokens += len(tokenizer.encode_batch(texts, threads=threads)[0])
    return text_bytes / max(tokens, 1)


@stage(version=1, produces=Vocabulary, resource="cpu")
def train_tokenizer(config: TokenizerConfig, raw: list[RawShard], *, out: Path, context: Context) -> Metrics:
    """Learn the vocabulary from the training documents, in the order of the shards."""
    started = time.monotonic()
    threads = context.compute.data_workers.threads()
    held_out = [file for shard in raw if (file := shard.path / "validation.parquet").exists()]
    train = [file for shard in raw if (file := shard.path / "train.parquet").exists()]
    total = min(config.max_characters, sum(int(shard.metrics["train_characters"]) for shard in raw))
    read = {"documents": 0, "characters": 0, "bytes": 0}

    def watched() -> Iterator[pa.StringArray]:
        for texts in first_texts(train, config.document_characters, config.max_characters):
            read["documents"] += len(texts)
            read["characters"] += total_characters(texts)
            read["bytes"] += total_bytes(texts)
            context.progress(min(read["characters"], total), total, "characters", "counting words")
            yield texts
        context.progress(total, total, "characters", "merging")

    tokenizer = Tokenizer.train_from_iterator(watched(), config.vocab_size, threads=threads)
    tokenizer.save(out / "vocabulary.json")
    seconds = time.monotonic() - started
    return {
        "vocab_size": tokenizer.vocab_size,
        **read,
        "bytes_per_token": bytes_per_token(tokenizer, held_out or train, config.document_characters, threads),
        "seconds": seconds,
    }
