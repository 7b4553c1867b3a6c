"""The network as the engine uses it: requests have slots, and a slot holds the keys and values of one answer.

    hidden_TC = decoder.prefill(slot, 0, prompt, None)           a chunk of one prompt
    logits_1V = decoder.logits(hidden_TC[-1:])
    logits_BV = decoder.decode(slots, ids, positions, previous)  one token of each of many answers
    block = decoder.save(slot, 0, 16)                            keys and values of 16 tokens,
    decoder.load(other, 0, block)                                copied to another slot

Rows of a product do not depend on their number if that is a multiple of 4, or 12 or more (torch 2.15 with MKL, fp32,
1 and 2 threads: bitwise equal for 4, 8, 12…300 rows; different for 1-3, 5-7 and 9-11). Batches are padded to multiples
of 4, so that an answer does not depend on its neighbours, nor on the chunks of its prompt.

Shapes: B batch · T time · S positions of a slot · C channels · K key/value heads · D channels of a head · L layers
V vocabulary
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from nanochat.model.fused import norm
from nanochat.model.gpt import GPT

ROWS = 4
"""Rows of a batch are padded to a multiple of this."""
Block = tuple[Tensor, Tensor]
"""Keys and values of consecutive tokens, (L, T, K, D) each."""


class _Rows:
    """Rows of the decoder's slots, as `GPT.forward` uses a cache."""

    def __init__(self, decoder: "Decoder", slots_B: Tensor, positions_B: Tensor, previous_B1C: Tensor) -> None:
        self.length = decoder.length
        self.positions_B = positions_B
        self.previous_embedding: Tensor | None = previous_B1C
        self._decoder, self._slots_B = decoder, slots_B

    def insert(self, layer: int, k_BTKD: Tensor, v_BTKD: Tensor) -> tuple[Tensor, Tensor]:
        rows_B1 = self._slots_B[:, None]
        columns_BT = self.positions_B[:, None] + torch.arange(k_BTKD.shape[1], device=k_BTKD.device)
        keys, values = self._decoder.keys_LBSKD[layer], self._decoder.values_LBSKD[layer]
        keys[rows_B1, columns_BT] = k_BTKD
        values[rows_B1, columns_BT] = v_BTKD
        return keys[self._slots_B], values[self._slots_B]

    def advance(self, tokens: int) -> None:
        pass


class Decoder:
    """A model with `slots` caches of `context_tokens` positions, and one that takes the padding of batches."""

    def __init__(self, model: GPT, slots: int, context_tokens: int) -> None:
        self.model = model.eval()
        self.context_tokens = context_tokens
        self.device = model.embedding.weight.device
        architecture = model.architecture
        self.length = context_tokens + ROWS  # the padding of the last chunk has positions too
        shape = (architecture.depth, slots + 1, self.length, architecture.kv_heads, architecture.head_dim)
        self.keys_LBSKD = torch.zeros(shape, dtype=model.activation_dtype, device=self.device)
        self.values_LBSKD = torch.zeros(shape, dtype=model.activation_dtype, device=self.device)
        self._unused_slot = slots

    @torch.inference_mode()
    def prefill(self, slot: int, start: int, ids: Sequence[int], previous: int | None) -> Tensor:
        """Adds tokens to a slot at positions `start`…; `previous` is the id before them.

        Returns the normed output of the last layer, (T, C).
        """
        padding = -len(ids) % ROWS  # later tokens overwrite its keys and values before a query attends to them
        ids_1T = torch.tensor([[*ids, *[0] * padding]], device=self.device)
        rows = self._rows([slot], [start], [0 if previous is None else previous])
        if previous is None:
            rows.previous_embedding = None
        return self.model.trunk(ids_1T, rows)[0, : len(ids)]

    @torch.inference_mode()
    def decode(
        self, slots_B: Sequence[int], ids_B: Sequence[int], positions_B: Sequence[int], previous_B: Sequence[int]
    ) -> Tensor:
        """Adds one token to each slot; returns the logits of the next, (B, V) fp32."""
        padding = -len(ids_B) % ROWS
        rows = self._rows(
            [*slots_B, *[self._unused_slot] * padding], [*positions_B, *[0] * padding], [*previous_B, *[0] * padding]
        )
        ids_B1 = torch.tensor([*ids_B, *[0] * padding], device=self.device)[:, None]
        return self.logits(self.model.trunk(ids_B1, rows)[:, 0])[: len(ids_B)]

    @torch.inference_mode()
    def logits(self, hidden_NC: Tensor) -> Tensor:
        """Output of the last layer to logits, (N, V) fp32."""
        architecture = self.model.architecture
        N, softcap = len(hidden_NC), architecture.model.logit_softcap
        x_NC = F.pad(hidden_NC, (0, 0, 0, -N % ROWS)).to(self.model.compute_dtype)
        weight_VC = self.model.head.weight[: architecture.vocab_size].to(x_NC.dtype)
        logits_NV = F.linear(x_NC, weight_VC)[:N].float()
        return softcap * torch.tanh(logits_NV / softcap) if softcap else logits_NV

    @torch.inference_mode()
    def save(self, slot: int, start: int, stop: int) -> Block:
        """A copy of the keys and values of positions `start` to `stop`."""
        return self.keys_LBSKD[:, slot, start:stop].clone(), self.values_LBSKD[:, slot, start:stop].clone()

    @torch.inference_mode()
    def load(self, slot: int, start: int, block: Block) -> None:
        """Writes keys and values to the positions `start`… of a slot; blocks are loaded in order."""
        stop = start + block[0].shape[1]
        self.keys_LBSKD[:, slot, start:stop], self.values_LBSKD[:, slot, start:stop] = block

    def _rows(self, slots: Sequence[int], positions: Sequence[int], previous: Sequence[int]) -> _Rows:
        device = self.device
        slots_B, positions_B = torch.tensor(slots, device=device), torch.tensor(positions, device=device)
        previous_B1 = torch.tensor(previous, device=device)[:, None]
        previous_B1C = norm(self.model.embedding(previous_B1).to(self.model.activation_dtype))
        return _Rows(self, slots_B, positions_B, previous_B1C)
