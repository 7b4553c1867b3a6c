"""Preference optimization: the pairs of answers, and training under torchrun."""

from pathlib import Path

from nanochat.config.preferences import DPOConfig, PairsConfig
from nanochat.execution.stage import Context, Metrics, stage
from nanochat.rl.pairs import collect
from nanochat.store.artifacts import Model, Pairs
from nanochat.workers.launch import launch


@stage(version=1, produces=Pairs, resource="cpu")
def collect_pairs(config: PairsConfig, *, out: Path, context: Context) -> Metrics:
    """Collect pairs of answers of which one is preferred, and hold out every tenth."""
    return collect(config, out)


@stage(version=1, produces=Model, resource="gpu")
def dpo(config: DPOConfig, base: Model, pairs: Pairs, *, out: Path, context: Context) -> Metrics:
    """Train a chat model to prefer the chosen answers."""
    inputs: dict[str, Path | list[Path]] = {"base": base.path, "pairs": pairs.path}
    return launch("nanochat.training.dpo", config, inputs, out, context)
