"""Fetches raw shards, checks them, and splits them into training and validation documents."""

from pathlib import Path

from nanochat.config.data import ShardConfig
from nanochat.execution.stage import Context, Metrics, stage
from nanochat.sources.download import write_shard
from nanochat.store.artifacts import RawShard


@stage(version=1, produces=RawShard, resource="cpu")
def download(config: ShardConfig, *, out: Path, context: Context) -> Metrics:
    """Fetch one raw shard, check it, and hold out its validation documents."""
    return write_shard(config, out, context.progress)
