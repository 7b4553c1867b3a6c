"""The network as the engine uses it: requests have slots, and a slot holds the keys and values of one answer.

    hidden_TC = decoder.prefill(slot, 0, prompt, None)           a chunk of one prompt
    logits_1V = decoder.logits(hidden_TC[-1:])
    logits_BV = decoder.decode(slots, ids, positions, previous)  one token of each of many answers
    block = decoder.save(slot, 0, 16)                            keys and values of 16 tokens,
    decoder.load(other, 0, block)                                copied to another slot

In fp32 on a CPU, the output of a token is bitwise the same alone and in any batch, in a prompt and in an answer, and
for any division of a prompt into chunks; see `network` for how.

Shapes: B batch · T time · N rows · C channels · V vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nanochat.inference import network
from nanochat.inference.packed import PackedWeights
from nanochat.inference.slots import PIECE_TOKENS, Block, Slots
from nanochat.model.gpt import GPT

__all__ = ["Block", "Decoder"]


class Decoder:
    """A model with `slots` caches of `context_tokens` positions."""

    def __init__(self, model: GPT, slots: int, context_tokens: int) -> None:
        self.context_tokens = context_tokens
        self.device = model.embedding.weight.device
        with torch.inference_mode():
            self.weights = PackedWeights(model)
            self.slots = Slots(model.architecture, slots, context_tokens, model.activation_dtype, self.device)
            model.prepare_positions(context_tokens)
            self._cos, self._sin = network.rotation_tables(model.cos, model.sin)
        self._before_first = len(self.weights.embedding_VC) - 1

    @property
    def longest_prefill_tokens(self) -> int:
        """Most tokens of one `prefill` whose keys and values can be saved afterwards."""
        return self.slots.kept_tokens

    @torch.inference_mode()
    def prefill(self, slot: int, start: int, ids: Sequence[int], previous: int | None) -> Tensor:
        """Adds tokens to a slot at positions `start`…; `previous` is the id before them.

        Returns the normed output of the last layer, (T, C).
        """
        before = [self._before_first if previous is None else previous, *ids[:-1]]
        pieces: list[Tensor] = []
        for at in range(0, len(ids), PIECE_TOKENS):
            piece = ids[at : at + PIECE_TOKENS]
            positions = range(start + at, start + at + len(piece))
            pieces.append(self._forward([slot], piece, before[at : at + PIECE_TOKENS], positions))
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    @torch.inference_mode()
    def decode(
        self, slots_B: Sequence[int], ids_B: Sequence[int], positions_B: Sequence[int], previous_B: Sequence[int]
    ) -> Tensor:
        """Adds one token to each slot; returns the logits of the next, (B, V) fp32."""
        order = sorted(range(len(slots_B)), key=slots_B.__getitem__)  # adjacent slots are read without a copy
        hidden_BC = self._forward(*([row[i] for i in order] for row in (slots_B, ids_B, previous_B, positions_B)))
        if order != list(range(len(order))):
            hidden_BC = hidden_BC[torch.tensor(order, device=self.device).argsort()]
        return network.logits(self.weights, hidden_BC)

    @torch.inference_mode()
    def logits(self, hidden_NC: Tensor) -> Tensor:
        """Output of the last layer to logits, (N, V) fp32."""
        return network.logits(self.weights, hidden_NC)

    @torch.inference_mode()
    def save(self, slot: int, start: int, stop: int) -> Block:
        """A copy of the keys and values of positions `start` to `stop`, of the last prefill or just decoded."""
        return self.slots.save(slot, start, stop)

    @torch.inference_mode()
    def load(self, slot: int, start: int, block: Block) -> None:
        """Writes keys and values to the positions `start`… of a slot; blocks are loaded in order."""
        self.slots.load(slot, start, block)

    def _forward(
        self, slots: Sequence[int], ids: Sequence[int], previous: Sequence[int], positions: Sequence[int]
    ) -> Tensor:
        """Rows of one slot, or one row of each of several slots."""
        B, N = len(slots), len(ids)
        rows_4N = torch.tensor([ids, previous, positions, slots if B == N else [slots[0]] * N], device=self.device)
        ids_N, previous_N, positions_N, slots_N = rows_4N
        adjacent = list(slots) == list(range(slots[0], slots[0] + B))
        rows = slice(slots[0], slots[0] + B) if adjacent else slots_N
        longest = max(positions) + 1
        places = {
            window: network.place(self.slots, window, rows, slots_N, positions_N.view(B, -1), longest)
            for window in self.slots.columns
        }
        rotation = self._cos[positions_N], self._sin[positions_N]
        return network.forward(self.weights, self.slots, places, ids_N, previous_N, rotation)
