"""Loss scaling for fp16 (arXiv:1710.03740): gradients too small for it are multiplied into its range."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from nanochat.errors import Diverged
from nanochat.workers.ranks import sum_over_ranks

START, GROWTH_STEPS = 65_536.0, 2_000


class LossScale:
    """The factor: halved when a gradient overflows (that batch is skipped), doubled after 2,000 steps without."""

    def __init__(self, factor: float = START) -> None:
        self.factor = factor
        self._calm_steps = 0

    def accepts(self, gradients: Iterable[Tensor | None]) -> bool:
        """Whether the gradients of all ranks are finite; adapts the factor. Waits for the device.

        Raises `Diverged` when no factor is small enough.
        """
        bad = sum(float(~torch.isfinite(gradient).all()) for gradient in gradients if gradient is not None)
        if sum_over_ranks(bad)[0]:
            self.factor, self._calm_steps = self.factor / 2, 0
            if self.factor < 2**-14:
                raise Diverged("Gradients overflow fp16 whatever the loss scale.", hint="Take `precision=bf16`.")
            return False
        self._calm_steps += 1
        if self._calm_steps % GROWTH_STEPS == 0:
            self.factor *= 2
        return True
