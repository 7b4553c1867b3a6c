"""Encodes raw documents to token ids."""

from functools import lru_cache
from pathlib import Path

from nanochat.config.data import TokensConfig
from nanochat.data.document_stats import DocumentStatsWriter
from nanochat.data.token_shards import Encoded, write_tokens
from nanochat.execution.stage import Context, Metrics, stage
from nanochat.store.artifacts import RawShard, TokenShard, Vocabulary
from nanochat.tokenizer.bpe import Tokenizer


@lru_cache(maxsize=1)
def load_tokenizer(path: Path) -> Tokenizer:
    """Loads a tokenizer once per process: loading takes as long as encoding 30 MB, and its word cache stays warm."""
    return Tokenizer.load(path)


@stage(version=2, produces=TokenShard, resource="cpu")
def tokenize(config: TokensConfig, raw: RawShard, vocabulary: Vocabulary, *, out: Path, context: Context) -> Metrics:
    """Encode one raw shard with the vocabulary. Every document starts with BOS."""
    tokenizer = load_tokenizer(vocabulary.path / "vocabulary.json")
    threads = context.compute.data_workers.threads()
    metrics: Metrics = {"vocab_size": tokenizer.vocab_size}
    with DocumentStatsWriter(out / "documents.parquet") as stats:
        for split in ("train", "validation"):
            file = raw.path / f"{split}.parquet"
            encoded = Encoded(documents=0, tokens=0, text_bytes=0)
            if file.exists():
                encoded = write_tokens(
                    file, out / file.name, tokenizer, config.row_group_tokens, threads, context.progress,
                    source=raw.digest, stats=stats,
                )  # fmt: skip
            metrics[f"{split}_documents"] = encoded.documents
            metrics[f"{split}_tokens"] = encoded.tokens
            metrics[f"{split}_bytes"] = encoded.text_bytes
    tokens = metrics["train_tokens"] + metrics["validation_tokens"]
    metrics["bytes_per_token"] = (metrics["train_bytes"] + metrics["validation_bytes"]) / max(tokens, 1)
    return metrics
