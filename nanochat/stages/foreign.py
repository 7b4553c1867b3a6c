"""A foreign model as an artifact, so that its evaluations have a lineage."""

from pathlib import Path

from nanochat.config.foreign import ForeignModelConfig
from nanochat.execution.stage import Context, Metrics, stage
from nanochat.store.artifacts import ForeignModel
from nanochat.workers.launch import launch


@stage(version=1, produces=ForeignModel, resource="cpu")
def foreign_model(config: ForeignModelConfig, *, out: Path, context: Context) -> Metrics:
    """Record a model of Hugging Face: its source, the hashes of its files, its tokenizer's BOS policy."""
    return launch("nanochat.evaluation.foreign_model", config, {}, out, context)
