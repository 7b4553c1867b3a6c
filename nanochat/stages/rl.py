"""Reinforcement learning: the problems, and training under torchrun."""

from pathlib import Path

from nanochat.config.rl import ProblemsConfig, RLConfig
from nanochat.execution.stage import Context, Metrics, stage
from nanochat.rl.problems import collect
from nanochat.store.artifacts import Model, Problems
from nanochat.workers.launch import launch


@stage(version=1, produces=Problems, resource="cpu")
def collect_problems(config: ProblemsConfig, *, out: Path, context: Context) -> Metrics:
    """Collect the problems of reinforcement learning, the held-out ones, and the reward functions."""
    return collect(config, out, context.progress)


@stage(version=1, produces=Model, resource="gpu")
def rl(config: RLConfig, base: Model, problems: Problems, *, out: Path, context: Context) -> Metrics:
    """Train a chat model on answers that it samples itself, and that are judged."""
    inputs: dict[str, Path | list[Path]] = {"base": base.path, "problems": problems.path}
    return launch("nanochat.training.rl", config, inputs, out, context)
