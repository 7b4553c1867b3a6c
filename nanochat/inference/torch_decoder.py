"""The decoder on a GPU: torch, with the weights of `packed`, the caches of `slots` and the forward pass of `network`.

It also runs on a CPU, where tests compare it with the native one.

Shapes: B slots · N rows · C channels · V vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from nanochat.errors import BadConfig
from nanochat.inference import network
from nanochat.inference.decoder import Block, Rows, WeightFormat
from nanochat.inference.packed import PackedWeights
from nanochat.inference.slots import PIECE_TOKENS, Slots
from nanochat.model.gpt import GPT


class TorchDecoder:
    """A model with `slots` caches of `context_tokens` positions."""

    def __init__(self, model: GPT, slots: int, context_tokens: int, weights: WeightFormat = "fp32") -> None:
        """Matrix products have the dtype of the model. Raises `BadConfig` for weights in 8 bits."""
        if weights == "int8":
            raise BadConfig("Weights in 8 bits are for CPUs.", hint="Use `--weights bf16` on a GPU.")
        self.context_tokens = context_tokens
        self.longest_run_tokens = PIECE_TOKENS
        self.device = model.embedding.weight.device
        with torch.inference_mode():
            self.weights = PackedWeights(model, torch.bfloat16 if weights == "bf16" else model.compute_dtype)
            self.slots = Slots(model.architecture, slots, context_tokens, model.activation_dtype, self.device)
            model.prepare_positions(context_tokens)
            self._cos, self._sin = network.rotation_tables(model.cos, model.sin)
        self.kept_tokens = self.slots.kept_tokens
        self._before_first = len(self.weights.embedding_VC) - 1

    @torch.inference_mode()
    def forward(self, rows: Rows) -> Tensor:
        """The normed output of the last layer, (N, C): one pass for slots with one row, one for each other slot."""
        runs = [[i for i, _ in run] for _, run in groupby(enumerate(rows.slots), key=lambda row: row[1])]
        singles = sorted((run[0] for run in runs if len(run) == 1), key=rows.slots.__getitem__)
        passes = [singles] if singles else []  # adjacent slots are read without a copy
        passes += [run for run in runs if len(run) > 1]
        hidden_NC = torch.cat([self._pass(rows, chosen, single=chosen is singles) for chosen in passes])
        order = torch.tensor([row for chosen in passes for row in chosen], device=self.device)
        return hidden_NC[order.argsort()]

    def _pass(self, rows: Rows, chosen: list[int], *, single: bool) -> Tensor:
        previous = [rows.previous[i] for i in chosen]
        before = [self._before_first if token is None else token for token in previous]
        slots = [rows.slots[i] for i in chosen]
        ids, positions = [rows.ids[i] for i in chosen], [rows.positions[i] for i in chosen]
        return self._forward(slots if single else slots[:1], ids, before, positions)

    @torch.inference_mode()
    def logits(self, hidden_NC: Tensor) -> Tensor:
        """Output of the last layer to logits, (N, V) fp32."""
        return network.logits(self.weights, hidden_NC)

    @torch.inference_mode()
    def save(self, slot: int, start: int, stop: int) -> Block:
        """A copy of the keys and values of positions `start` to `stop`, among the last `kept_tokens`."""
        return self.slots.save(slot, start, stop)

    @torch.inference_mode()
    def load(self, slot: int, start: int, block: Block) -> None:
        """Writes keys and values to the positions `start`… of a slot; blocks are loaded in order."""
        self.slots.load(slot, start, block)

    @property
    def cache_bytes(self) -> int:
        """Memory of the keys and values of all slots."""
        return self.slots.bytes

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
