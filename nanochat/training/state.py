"""The state of training that a checkpoint contains besides the tensors of the model and the optimizer."""

import math
from dataclasses import dataclass, field

from nanochat.training.checkpoint import Saved
from nanochat.training.loss_scale import LossScale

SMOOTHING = 0.9
"""Decay of the smoothed loss, an exponential moving average."""


@dataclass
class TrainState:
    """Everything that a resumed run continues from; learning rates and batches are functions of it."""

    step: int = 0
    """Completed optimizer steps."""
    rows_consumed: int = 0
    """Position in the data. It is ahead of the steps after a rollback, which skips rows."""
    loss: float = math.nan
    """Loss of the last step, in nats per counted token."""
    moving_average: float = 0.0
    """Moving average of the losses, starting at 0; see `smoothed_loss`."""
    seconds: float = 0.0
    """Training time of all attempts, without evaluation and checkpoints."""
    loss_scale: LossScale | None = None
    """Used with fp16 only."""
    history: list[str] = field(default_factory=list)
    """The lines of `metrics.jsonl` of the steps so far."""

    def add_loss(self, loss: float) -> None:
        self.loss = loss
        self.moving_average = SMOOTHING * self.moving_average + (1 - SMOOTHING) * loss

    def smoothed_loss(self, step: int = 0) -> float:
        """The moving average after `step` steps (default: all), corrected for its start at 0 (arXiv:1412.6980)."""
        return self.moving_average / (1 - SMOOTHING ** (step or self.step))

    def numbers(self) -> dict[str, float]:
        numbers = {"loss": self.loss, "smoothed_loss": self.moving_average, "seconds": self.seconds}
        return {**numbers, "loss_scale": self.loss_scale.factor} if self.loss_scale else numbers

    def restore(self, saved: Saved) -> None:
        self.step, self.rows_consumed = saved.step, saved.rows_consumed
        self.loss, self.moving_average = saved.numbers["loss"], saved.numbers["smoothed_loss"]
        self.seconds = saved.numbers["seconds"]
        if self.loss_scale:
            self.loss_scale = LossScale(saved.numbers["loss_scale"])
        self.history[:] = saved.metrics
