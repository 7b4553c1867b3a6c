"""Packed rows: token shards to rows of T+1 tokens."""

from __future__ import annotations

from pathlib import Path

from nanochat.config import RowsConfig
from nanochat.data.packing import Packed, pack_tokens
from nanochat.stages.stage import Context, Metrics, stage
from nanochat.store.artifacts import Rows, TokenShard


@stage(version=1, produces=Rows, resource="cpu")
def pack(config: RowsConfig, tokens: TokenShard, *, out: Path, context: Context) -> Metrics:
    """Pack the documents of one token shard into rows of equal length, best fit."""
    metrics: Metrics = {"sequence_len": config.sequence_len}
    dropped_tokens = 0
    for split in ("train", "validation"):
        source = tokens.path / f"{split}.parquet"
        packed = Packed(rows=0, dropped_tokens=0, itemsize=metrics.get("itemsize", 2))
        if source.exists():
            packed = pack_tokens(source, out / source.name, config.sequence_len + 1, context.progress)
        metrics[f"{split}_rows"] = packed.rows
        metrics["itemsize"] = packed.itemsize
        dropped_tokens += packed.dropped_tokens
    metrics["dropped_tokens"] = dropped_tokens
    return metrics
