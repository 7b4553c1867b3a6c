"""The vocabulary: byte-pair encoding trained on the training documents."""

# pyarrow has no types:
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from nanochat.config.data import TokenizerConfig
from nanochat.data.vocabulary_text import bytes_per_token, first_texts
from nanochat.execution.stage import Context, Metrics, stage
from nanochat.sources.documents import total_bytes, total_characters
from nanochat.store.artifacts import RawShard, Vocabulary
from nanochat.tokenizer.bpe import Tokenizer


@stage(version=1, produces=Vocabulary, resource="cpu")
def train_tokenizer(config: TokenizerConfig, raw: list[RawShard], *, out: Path, context: Context) -> Metrics:
    """Train the vocabulary on the training documents, in the order of the shards."""
    started = time.monotonic()
    threads = context.compute.data_workers.threads()
    held_out = [file for shard in raw if (file := shard.path / "validation.parquet").exists()]
    train = [file for shard in raw if (file := shard.path / "train.parquet").exists()]
    total = min(config.max_characters, sum(int(shard.metrics["train_characters"]) for shard in raw))
    read = {"documents": 0, "characters": 0, "bytes": 0}

    def training_texts() -> Iterator[pa.StringArray]:
        for texts in first_texts(train, config.document_characters, config.max_characters):
            read["documents"] += len(texts)
            read["characters"] += total_characters(texts)
            read["bytes"] += total_bytes(texts)
            context.progress(min(read["characters"], total), total, "characters", "counting words")
            yield texts
        context.progress(total, total, "characters", "merging")

    tokenizer = Tokenizer.train_from_iterator(training_texts(), config.vocab_size, threads=threads)
    tokenizer.save(out / "vocabulary.json")
    seconds = time.monotonic() - started
    return {
        "vocab_size": tokenizer.vocab_size,
        **read,
        "bytes_per_token": bytes_per_token(tokenizer, held_out or train, config.document_characters, threads),
        "seconds": seconds,
    }
