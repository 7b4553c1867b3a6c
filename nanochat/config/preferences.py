"""Configs of preference optimization: pairs of answers, and training on them."""

from typing import Annotated, Literal

from pydantic import Field

from nanochat.config.base import AbsentMeans, Config, Seed
from nanochat.config.training import GuardConfig, OptimizerConfig


class PairsConfig(Config):
    """Pairs of answers to a prompt, of which one is preferred."""

    source: str = ""
    """JSON or JSONL file. A row has `prompt` or `messages`, `chosen` and `rejected`; every tenth row is held out.
    Empty: there is no preference optimization."""
    sha256: Annotated[str, AbsentMeans("")] = ""
    """SHA-256 of the file; other content is refused. Empty: the run computes it."""


class DPOConfig(Config):
    """Preference optimization on pairs of answers (DPO, arXiv:2305.18290)."""

    beta: Annotated[float, Field(gt=0, le=1e3)] = 0.1
    """Strength of the tie to the model at the start: the margin of a pair is this times the change of the difference of
    the log-probabilities of its answers."""
    epochs: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """Passes over the pairs."""
    pairs_per_step: Annotated[int, Field(ge=1, le=65_536)] = 32
    """Pairs of an optimizer step, over all ranks."""
    optimizer: OptimizerConfig = OptimizerConfig(embedding_lr=0.2, value_embedding_lr=0.1, head_lr=0.004)
    """Learning rates; they are not scaled with the batch. The fields of schedules are not used."""
    lr_fraction: Annotated[float, Field(gt=0, le=10)] = 0.05
    """Learning rates at the start, as a fraction of `optimizer`; they decay linearly to 0."""
    precision: Literal["fp32", "bf16", "fp16", "fp8"] = "bf16"
    """Dtype of the matrix products, as in pretraining. Logits are fp32."""
    seed: Seed = 42
    """Seed of the order of pairs."""
    evaluate_every_steps: Annotated[int, Field(ge=0)] = 50
    """Steps between evaluations on held-out pairs; 0: only before the first and after the last."""
    guard: GuardConfig = GuardConfig(spike_nats=0)
    """Handling of a loss that is not finite."""
