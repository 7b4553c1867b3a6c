"""The loss of preference optimization on a micro-batch of pairs: DPO (arXiv:2305.18290, equation 7).

    margin = beta * ((log p(chosen) - log p0(chosen)) - (log p(rejected) - log p0(rejected)))
    loss   = mean over pairs of  -log sigmoid(margin)

p is the model, p0 the model at the start; a log-probability is the sum over the tokens of the answer that are in the
loss, under the full softmax of fp32 logits.

Shapes: P pairs · B = 2 P rows, chosen and rejected in turn · T tokens of a row · N trained tokens
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from nanochat.data.loader import IGNORED
from nanochat.model.gpt import GPT
from nanochat.rl.objective import token_logprobs
from nanochat.rl.pairs import RenderedPair

PADDED_TO = 16
"""Rows are padded to a multiple of this."""


class PairBatch(NamedTuple):
    """Rows of a micro-batch on the device."""

    inputs_BT: Tensor  # noqa: N815  # the suffix is the shape
    """(B, T) int64: a conversation without its last token, padded."""
    targets_BT: Tensor  # noqa: N815
    """(B, T) int64: the next token if it is in the loss, else -1."""
    reference_B: Tensor  # noqa: N815
    """(B,) fp32: log-probability of the answer under the model at the start."""
    share: float
    """Share of a pair in the loss, times the trained tokens of the whole step; `optimizer_step` divides by these."""


def pair_batch(
    pairs: Sequence[RenderedPair], references: Sequence[tuple[float, float]], share: float, padding: int,
    device: torch.device,
) -> PairBatch:  # fmt: skip
    """The pairs as one micro-batch; `references` are the log-probabilities of their answers at the start."""
    rows = [row for pair in pairs for row in (pair.chosen, pair.rejected)]
    B, T = len(rows), -(-max(len(row.ids) - 1 for row in rows) // PADDED_TO) * PADDED_TO
    inputs_BT, targets_BT = np.full((B, T), padding, np.int64), np.full((B, T), IGNORED, np.int64)
    for b, row in enumerate(rows):
        inputs_BT[b, : len(row.ids) - 1] = row.ids[:-1]
        targets_BT[b, : len(row.ids) - 1] = np.where(np.array(row.mask[1:], bool), row.ids[1:], IGNORED)
    inputs, targets = (torch.from_numpy(each).to(device) for each in (inputs_BT, targets_BT))
    reference = torch.tensor([each for pair in references for each in pair], dtype=torch.float32, device=device)
    return PairBatch(inputs, targets, reference, share)


def answer_logprobs(model: GPT, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
    """The log-probability of the answer in each row, (B,) fp32, in nats."""
    logprob_N, _ = token_logprobs(model, inputs_BT, targets_BT, 1.0, 0)
    logprob_BT = torch.zeros(targets_BT.shape, dtype=logprob_N.dtype, device=logprob_N.device)
    return logprob_BT.index_put((targets_BT != IGNORED).nonzero(as_tuple=True), logprob_N).sum(1)


def pair_loss(model: GPT, batch: PairBatch, beta: float, statistics: PairStatistics) -> Tensor:
    """The loss of a micro-batch times the trained tokens of the whole step, fp32."""
    gain_B = answer_logprobs(model, batch.inputs_BT, batch.targets_BT) - batch.reference_B
    loss_P = -logsigmoid(beta * (gain_B[0::2] - gain_B[1::2]))
    statistics.add(gain_B, loss_P)
    return batch.share * loss_P.sum()


class PairStatistics:
    """Sums over pairs on this rank, kept on the device."""

    NAMES = ("pairs", "loss", "accuracy", "chosen_gain", "rejected_gain")

    def __init__(self) -> None:
        self._sums: Tensor | None = None

    def add(self, gain_B: Tensor, loss_P: Tensor) -> None:
        """`gain_B`: log-probabilities of answers minus those at the start; `loss_P`: the loss of each pair."""
        chosen_P, rejected_P = gain_B.detach()[0::2], gain_B.detach()[1::2]
        # as likely as at the start is half right
        right_P = ((chosen_P > rejected_P).double() + (chosen_P >= rejected_P).double()) / 2
        count = torch.tensor(float(len(loss_P)), device=loss_P.device)
        found = [count, *(each.sum() for each in (loss_P.detach(), right_P, chosen_P, rejected_P))]
        sums = torch.stack([each.double() for each in found])
        self._sums = sums if self._sums is None else self._sums + sums

    def take(self) -> list[float]:
        """The sums since the last call."""
        sums, self._sums = self._sums, None
        return [0.0] * len(self.NAMES) if sums is None else sums.tolist()
