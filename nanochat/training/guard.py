"""The guard: what is no number, or jumps, is not trained on."""

from __future__ import annotations

import math

from nanochat.config.training import GuardConfig
from nanochat.errors import Diverged

LOWER_THE_RATES = "Lower the rates (`pretrain.optimizer`), or raise `batch_tokens`; checkpoints are kept."
WARMUP_STEPS = 10
"""The smoothed loss means little before."""
MAX_ROLL_BACKS = 3


class Guard:
    """Looks at each loss; counts how often training was rolled back."""

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self.roll_backs = 0

    def look(self, step: int, loss: float, gradient_norm: float, smoothed: float) -> None:
        """Raises `Diverged` when the loss of the batch of that step (from 1) is no number or a spike.

        `smoothed` is the smoothed loss of the steps before.
        """
        if not math.isfinite(loss):
            raise Diverged(f"The loss is {loss} at step {step}.", hint=LOWER_THE_RATES)
        if not math.isfinite(gradient_norm):
            raise Diverged(f"The gradient is {gradient_norm} at step {step}.", hint=LOWER_THE_RATES)
        limit = self._config.spike_nats
        if limit and step > WARMUP_STEPS and loss > smoothed + limit:
            raise Diverged(
                f"The loss jumped from {smoothed:.2f} to {loss:.2f} at step {step}, by more than `guard.spike_nats`.",
                hint=LOWER_THE_RATES,
            )

    def may_roll_back(self) -> bool:
        """Whether to go back to the last checkpoint; counts."""
        self.roll_backs += 1
        return self._config.action == "roll_back" and self.roll_backs <= MAX_ROLL_BACKS
