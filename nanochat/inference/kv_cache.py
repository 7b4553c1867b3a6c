"""The cache of keys and values, for rows of different lengths.

Shapes: B batch · T time · S positions of the cache · K key/value heads · D channels of a head
"""

import torch
from torch import Tensor

from nanochat.model.architecture import Architecture


class KVCache:
    """Per layer, keys and values (B, S, K, D); the token at position p of a row is in column p."""

    def __init__(
        self, architecture: Architecture, batch: int, length: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (architecture.depth, batch, length, architecture.kv_heads, architecture.head_dim)
        self.length = length
        self.keys_LBSKD = torch.zeros(shape, dtype=dtype, device=device)
        self.values_LBSKD = torch.zeros(shape, dtype=dtype, device=device)
        self.positions_B = torch.zeros(batch, dtype=torch.int64, device=device)
        self.previous_embedding: Tensor | None = None

    def insert(self, layer: int, k_BTKD: Tensor, v_BTKD: Tensor) -> tuple[Tensor, Tensor]:
        """Appends T tokens to each row; returns all keys and values of the layer, (B, S, K, D) each."""
        B, T = k_BTKD.shape[:2]
        rows_B1 = torch.arange(B, device=k_BTKD.device)[:, None]
        columns_BT = self.positions_B[:, None] + torch.arange(T, device=k_BTKD.device)
        self.keys_LBSKD[layer][rows_B1, columns_BT] = k_BTKD
        self.values_LBSKD[layer][rows_B1, columns_BT] = v_BTKD
        return self.keys_LBSKD[layer], self.values_LBSKD[layer]

    def advance(self, tokens: int) -> None:
        self.positions_B = self.positions_B + tokens
