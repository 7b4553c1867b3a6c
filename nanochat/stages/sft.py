"""Chat model: supervised fine-tuning under torchrun."""

from __future__ import annotations

from pathlib import Path

from nanochat.config import SFTConfig
from nanochat.stages.launch import launch
from nanochat.stages.stage import Context, Metrics, stage
from nanochat.store.artifacts import Conversations, Model


@stage(version=1, produces=Model, resource="gpu")
def sft(config: SFTConfig, base: Model, conversations: Conversations, *, out: Path, context: Context) -> Metrics:
    """Learn to answer: loss only on the assistant's tokens."""
    inputs: dict[str, Path | list[Path]] = {"base": base.path, "conversations": conversations.path}
    return launch("nanochat.training.sft", config, inputs, out, context)
