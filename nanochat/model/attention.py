"""Attention over a window of the past, with or without a cache of keys and values.

Shapes: B batch · T time · S positions of the cache · H query heads · K key/value heads · D channels of a head
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor


class KVCache(Protocol):
    """What the model asks of a cache; the key of the token at position p of a row is in column p."""

    length: int
    """Positions there is room for."""
    positions_B: Tensor  # noqa: N815 - the suffix is its shape
    """Tokens already in, a row (int64)."""
    previous_embedding: Tensor | None
    """(B, 1, C): normed embedding of the last token in, for smear; None or zeros where there is none."""

    def insert(self, layer: int, k_BTKD: Tensor, v_BTKD: Tensor) -> tuple[Tensor, Tensor]:
        """Put T tokens behind those already in; gives all keys and values, (B, S, K, D) each."""
        ...

    def advance(self, tokens: int) -> None:
        """All layers have inserted so many tokens."""
        ...


def attend(
    q_BTHD: Tensor, k_BSKD: Tensor, v_BSKD: Tensor, *, window: int, scale: float, positions_B: Tensor | None = None
) -> Tensor:
    """Each query attends to itself and the `window` positions before it → (B, T, H, D).

    Without `positions_B`, S = T and queries and keys are aligned. With it, the queries of row b stand at positions
    `positions_B[b] + 0…T-1` and key s at position s; keys further on are not looked at, whatever they hold.
    The one place that knows which kernel does it.
    """
    T, S = q_BTHD.shape[1], k_BSKD.shape[1]
    mask: Tensor | None = None
    if positions_B is not None:
        query_BT1 = (positions_B[:, None] + torch.arange(T, device=q_BTHD.device))[:, :, None]
        key_S = torch.arange(S, device=q_BTHD.device)
        mask = ((key_S <= query_BT1) & (key_S >= query_BT1 - window))[:, None]  # (B, 1, T, S)
    elif window < T - 1:
        mask = _band(T, window, q_BTHD.device)
    out_BHTD = F.scaled_dot_product_attention(
        q_BTHD.transpose(1, 2),
        k_BSKD.to(q_BTHD.dtype).transpose(1, 2),  # a cache may keep them in less
        v_BSKD.to(q_BTHD.dtype).transpose(1, 2),
        attn_mask=mask,
        is_causal=mask is None,
        scale=scale,
        enable_gqa=q_BTHD.shape[2] != k_BSKD.shape[2],
    )
    return out_BHTD.transpose(1, 2)


@lru_cache(maxsize=16)
def _band(T: int, window: int, device: torch.device) -> Tensor:
    """(T, T) bool: the key is not after the query and at most `window` before it."""
    distance_TT = torch.arange(T, device=device)[:, None] - torch.arange(T, device=device)
    return (distance_TT >= 0) & (distance_TT <= window)
