"""Keys and values of the engine's slots. A layer with a window keeps a ring: its window and one piece of a prompt.

The token at position p is in column p mod S of its slot. A layer that sees everything has columns for the whole
context. Columns are multiples of 128, so that sums over keys have one order whatever part of a slot is in use.

With windows of 512 in three of four layers, a context of 2,048 tokens takes (3 x 640 + 2048) / (4 x 2048) = 48% of
what it takes without rings.

Shapes: G layers of one kind · B rows · P slots · S columns · K key/value heads · D channels of a head · T tokens
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from nanochat.model.architecture import Architecture

KEY_BLOCK = 128
"""Columns are allocated and read in multiples of this."""
PIECE_TOKENS = 128
"""Most tokens of a prompt that are computed at once: a ring has room for them beside the window."""
Block = tuple[Tensor, ...]
"""Keys and values of consecutive tokens, (G, 2, K, T, D) for each kind of layer."""


def rounded(tokens: int) -> int:
    """The next multiple of `KEY_BLOCK`."""
    return math.ceil(tokens / KEY_BLOCK) * KEY_BLOCK


class Slots:
    """The caches of all layers. Layers with the same window share a tensor (G, 2, P, K, S, D): keys, then values."""

    def __init__(
        self, architecture: Architecture, slots: int, context_tokens: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.windows = [min(window, context_tokens) for window in architecture.windows()]
        self.columns = {
            window: rounded(min(window + PIECE_TOKENS, context_tokens)) for window in sorted(set(self.windows))
        }
        """Columns of a layer, by its window."""
        K, D = architecture.kv_heads, architecture.head_dim
        self._kinds = {
            window: torch.zeros(
                (self.windows.count(window), 2, slots, K, columns, D), dtype=dtype, device=device
            )
            for window, columns in self.columns.items()
        }  # fmt: skip
        seen = dict.fromkeys(self.columns, 0)
        self.layers: list[Tensor] = []
        """Keys and values of each layer, (2, P, K, S, D)."""
        for window in self.windows:
            self.layers.append(self._kinds[window][seen[window]])
            seen[window] += 1

    @property
    def bytes(self) -> int:
        """Memory of all slots."""
        return sum(kind.nbytes for kind in self._kinds.values())

    @property
    def kept_tokens(self) -> int:
        """The number of last tokens of a slot that every layer still has, and that can be saved."""
        return min(self.columns.values())

    def save(self, slot: int, start: int, stop: int) -> Block:
        """A copy of positions `start` to `stop`, which are among the last `kept_tokens` of the slot."""
        return tuple(self._of(kind, slot, start, stop) for kind in self._kinds.values())

    def load(self, slot: int, start: int, block: Block) -> None:
        """Writes the positions from `start` on. Blocks are loaded in order, so that a ring has the last ones."""
        for kind, saved in zip(self._kinds.values(), block, strict=True):
            at, columns = start, kind.shape[4]
            for part in saved.split([*_parts(start, start + saved.shape[3], columns)], 3):
                column = at % columns
                kind[:, :, slot, :, column : column + part.shape[3]] = part
                at += part.shape[3]

    @staticmethod
    def _of(kind: Tensor, slot: int, start: int, stop: int) -> Tensor:
        columns, at = kind.shape[4], start
        parts: list[Tensor] = []
        for length in _parts(start, stop, columns):
            parts.append(kind[:, :, slot, :, at % columns : at % columns + length])
            at += length
        return torch.cat(parts, 3)


def _parts(start: int, stop: int, columns: int) -> list[int]:
    """Lengths of the pieces of `start` to `stop` that are contiguous in a ring."""
    cuts = [start, *range((start // columns + 1) * columns, stop, columns), stop]
    return [after - before for before, after in pairwise(cuts)]


def mask(positions_BT: Tensor, window: int, columns: int, used: int) -> Tensor:
    """(B, T, used) fp32: 0 where a query sees the key of a column, else -inf.

    A query at position p sees itself and the `window` positions before it. The last query of a slot is the last token
    in it, which determines the position that each column of its ring has.
    """
    column_S = torch.arange(used, device=positions_BT.device)
    last_B1 = positions_BT[:, -1:]
    key_BS = last_B1 - (last_B1 - column_S) % columns
    distance_BTS = positions_BT[..., None] - key_BS[:, None]
    hidden_BTS = (distance_BTS < 0) | (distance_BTS > window) | (key_BS < 0)[:, None]
    return torch.zeros(hidden_BTS.shape, device=positions_BT.device).masked_fill_(hidden_BTS, -torch.inf)
