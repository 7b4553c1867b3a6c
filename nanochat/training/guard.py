"""The guard: detects losses and gradients that are not finite, and loss spikes."""

import math

from nanochat.config.training import GuardConfig
from nanochat.errors import Diverged

LOWER_THE_RATES = "Lower the rates (`pretrain.optimizer`), or raise `batch_tokens`; checkpoints are kept."
WARMUP_STEPS = 10
"""Steps without spike detection, because the smoothed loss is still too noisy."""
MAX_ROLL_BACKS = 3


class Guard:
    """Checks each step; counts the rollbacks."""

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self.roll_backs = 0

    def check(self, step: int, loss: float, gradient_norm: float, smoothed: float) -> None:
        """Raises `Diverged` when the loss of this step (from 1) or its gradient is not finite, or the loss is a spike.

        `smoothed` is the smoothed loss (nats) of the steps before.
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
        """Whether the config allows one more rollback; counts it."""
        self.roll_backs += 1
        return self._config.action == "roll_back" and self.roll_backs <= MAX_ROLL_BACKS
