"""Base model: pretraining under torchrun."""

from __future__ import annotations

from pathlib import Path

from nanochat.config import PretrainConfig
from nanochat.stages.launch import launch
from nanochat.stages.stage import Context, Metrics, stage
from nanochat.store.artifacts import Model, Rows, Vocabulary


@stage(version=1, produces=Model, resource="gpu")
def pretrain(
    config: PretrainConfig, vocabulary: Vocabulary, rows: list[Rows], *, out: Path, context: Context
) -> Metrics:
    """Learn the language: next-token prediction on the packed rows."""
    inputs: dict[str, Path | list[Path]] = {"vocabulary": vocabulary.path, "rows": [part.path for part in rows]}
    return launch("nanochat.training.pretrain", config, inputs, out, context)
