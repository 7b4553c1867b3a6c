"""Evaluation of a model on any text."""

from pathlib import Path

from nanochat.config.text_evaluation import TextEvaluationConfig
from nanochat.execution.stage import Context, Metrics, stage
from nanochat.store.artifacts import AnyModel, Evaluation, RawShard
from nanochat.workers.launch import launch


@stage(version=1, produces=Evaluation, resource="gpu")
def evaluate_text(
    config: TextEvaluationConfig, model: AnyModel, shards: list[RawShard], *, out: Path, context: Context
) -> Metrics:
    """Evaluate a model on any text: bits per byte of every document."""
    inputs: dict[str, Path | list[Path]] = {"model": model.path, "shards": [shard.path for shard in shards]}
    return launch("nanochat.evaluation.text_evaluation", config, inputs, out, context)
