"""The network as the engine uses it: requests have slots, and a slot holds the keys and values of one answer.

    rows = Rows(slots, positions, ids, previous)     tokens to add: several of one slot, or one of each of several
    hidden_NC = decoder.forward(rows)                their outputs; their keys and values are in the slots
    logits_NV = decoder.logits(hidden_NC)
    block = decoder.save(slot, 0, 16)                keys and values of 16 tokens,
    decoder.load(other, 0, block)                    copied to another slot

On a CPU, this is native code (`native_decoder`), elsewhere torch (`torch_decoder`). In fp32 on a CPU, the output of a
token is bitwise the same alone and in any batch, in a prompt and in an answer, and for any division of a prompt.

Shapes: N rows · C channels · V vocabulary
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from torch import Tensor

WeightFormat = Literal["fp32", "bf16", "int8"]
Block = Any
"""Keys and values of consecutive tokens, in the format of the decoder that saved them."""


@dataclass
class Rows:
    """Tokens that a pass adds. Those of one slot are together, in the order of their positions."""

    slots: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    previous: list[int | None] = field(default_factory=list)
    """The id before each token; None before the first."""

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, slot: int, position: int, ids: list[int], previous: int | None) -> None:
        """Adds consecutive tokens of a slot; `previous` is the id before them."""
        self.slots += [slot] * len(ids)
        self.positions += range(position, position + len(ids))
        self.ids += ids
        self.previous += [previous, *ids[:-1]]


class Decoder(Protocol):
    """A model with caches for a number of answers."""

    context_tokens: int
    """Positions of a slot."""
    longest_run_tokens: int
    """Most tokens of one slot in a pass."""
    kept_tokens: int
    """The number of last tokens of a slot that can be saved."""

    def forward(self, rows: Rows) -> Tensor:
        """The normed output of the last layer, (N, C)."""
        ...

    def logits(self, hidden_NC: Tensor) -> Tensor:
        """Output of the last layer to logits, (N, V) fp32."""
        ...

    def save(self, slot: int, start: int, stop: int) -> Block:
        """A copy of the keys and values of positions `start` to `stop`."""
        ...

    def load(self, slot: int, start: int, block: Block) -> None:
        """Writes keys and values to the positions `start`… of a slot; blocks are loaded in order."""
        ...

    @property
    def cache_bytes(self) -> int:
        """Memory of the keys and values of all slots."""
        ...
