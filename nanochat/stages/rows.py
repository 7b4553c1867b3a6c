"""Packs token shards into rows of T+1 tokens."""

from pathlib import Path

from nanochat.config.data import RowsConfig
from nanochat.data.packing import pack_tokens
from nanochat.data.rows import rows_per_block
from nanochat.execution.stage import Context, Metrics, stage
from nanochat.store.artifacts import Rows, TokenShard


@stage(version=2, produces=Rows, resource="cpu")
def pack(config: RowsConfig, tokens: TokenShard, *, out: Path, context: Context) -> Metrics:
    """Pack the documents of one token shard into rows of equal length, best fit."""
    row_tokens = config.sequence_len + 1
    metrics: Metrics = {"sequence_len": config.sequence_len, "dropped_tokens": 0, "padding_tokens": 0}
    for split in ("train", "validation"):
        source = tokens.path / f"{split}.parquet"
        metrics |= {f"{split}_rows": 0, f"{split}_tokens": 0}
        if source.exists():
            packed = pack_tokens(source, out, split, row_tokens, context.progress)
            metrics |= {f"{split}_rows": packed.rows, f"{split}_tokens": packed.tokens, "dtype": packed.dtype.name}
            metrics["block_rows"] = rows_per_block(row_tokens, packed.dtype)
            metrics["dropped_tokens"] += packed.dropped_tokens
    return metrics
