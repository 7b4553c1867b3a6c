"""What generation costs, by arithmetic: bytes that a step reads, floating-point operations."""

from __future__ import annotations

from dataclasses import dataclass

from nanochat.inference.decoder import WeightFormat
from nanochat.model.architecture import Architecture

WEIGHT_BYTES: dict[WeightFormat, int] = {"fp32": 4, "bf16": 2, "int8": 1}


@dataclass(frozen=True)
class Costs:
    """The costs of a model with its weights and its cache in these formats."""

    architecture: Architecture
    weight_bytes: int
    """Bytes of one weight of a matrix."""
    cache_bytes: int
    """Bytes of one number in the cache of keys and values."""

    @property
    def weights_read(self) -> int:
        """Bytes of the weights that a step reads, for any number of answers.

        All matrices and the head. A few rows are gathered from the embedding tables, which do not count.
        """
        return self.architecture.scaling_parameters * self.weight_bytes

    def attended(self, position: int) -> int:
        """Positions that the token at a position attends to, over all layers: inside each window, and itself."""
        return sum(min(position, window) + 1 for window in self.architecture.windows())

    def cache_read(self, position: int) -> int:
        """Bytes of the keys and values that the token at a position attends to."""
        return self.attended(position) * 2 * self.architecture.kv_width * self.cache_bytes

    def flops(self, position: int, *, head: bool) -> int:
        """Operations for the token at a position: 2 per weight, 4 per channel and attended position.

        With `head`, the logits after it are computed; of a prompt, only those after the last token are.
        """
        weights = self.architecture.matrix_parameters + head * self.architecture.head_parameters
        return 2 * weights + 4 * self.architecture.width * self.attended(position)
