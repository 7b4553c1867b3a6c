"""Loss scaling for fp16 (arXiv:1710.03740, section 3.2): brings small gradients into its range."""

from collections.abc import Iterable

import torch
from torch import Tensor

from nanochat.errors import Diverged
from nanochat.workers.ranks import sum_over_ranks

START, GROWTH_STEPS = 65_536.0, 2_000


class LossScale:
    """The factor: halved when a gradient overflows (that batch is skipped), doubled after 2,000 steps without one."""

    def __init__(self, factor: float = START) -> None:
        self.factor = factor
        self._steps_without_overflow = 0

    def accepts(self, gradients: Iterable[Tensor | None]) -> bool:
        """Whether the gradients are finite on all ranks; adapts the factor. Waits for the device, once.

        Raises `Diverged` when the factor gets too small.
        """
        finite = [gradient.isfinite().all() for gradient in gradients if gradient is not None]
        if sum_over_ranks(float(bool(finite) and not torch.stack(finite).all()))[0]:
            self.factor, self._steps_without_overflow = self.factor / 2, 0
            if self.factor < 2**-14:
                raise Diverged("Gradients overflow fp16 at any loss scale.", hint="Take `precision=bf16`.")
            return False
        self._steps_without_overflow += 1
        if self._steps_without_overflow % GROWTH_STEPS == 0:
            self.factor *= 2
        return True
