"""The loss of reinforcement learning on a micro-batch, and log-probabilities under the settings of sampling.

Per token: `share * (-advantage * weight * log-probability + kl * ratio * k3)`, or a clipped ratio in place of the first
term. Logits are fp32. Only the positions of trained tokens go through the head, in chunks whose logits are computed
again in the backward pass.

Shapes: B rows · T tokens of a row · N trained tokens · C channels · V vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from nanochat.config.rl import RLLoss
from nanochat.data.loader import IGNORED
from nanochat.model.gpt import GPT
from nanochat.model.loss import chunk_rows


class RolloutBatch(NamedTuple):
    """Rows of a micro-batch on the device."""

    inputs_BT: Tensor  # noqa: N815  # the suffix is the shape
    """(B, T) int64: prompt and answer without the last token, padded."""
    targets_BT: Tensor  # noqa: N815
    """(B, T) int64: the next token if it is trained on, else -1."""
    behaviour_BT: Tensor  # noqa: N815
    """(B, T) fp32: log-probability of the target when it was sampled."""
    reference_BT: Tensor  # noqa: N815
    """(B, T) fp32: log-probability of the target under the model at the start; 0 without a KL term."""
    advantage_B: Tensor  # noqa: N815
    """(B,) fp32."""
    share_B: Tensor  # noqa: N815
    """(B,) fp32: share of each token of the row in the loss, times the trained tokens of the whole step."""


class TokenStatistics:
    """Sums over the trained tokens of a step on this rank, kept on the device."""

    NAMES = ("tokens", "entropy", "ratio", "ratio_error", "clipped", "kl")

    def __init__(self) -> None:
        self._sums: Tensor | None = None

    def add(self, values: Sequence[Tensor]) -> None:
        """One tensor for each name: the number of tokens, and sums over them."""
        found = torch.stack([value.detach().double() for value in values])
        self._sums = found if self._sums is None else self._sums + found

    def take(self) -> list[float]:
        """The sums since the last call."""
        sums, self._sums = self._sums, None
        return [0.0] * len(self.NAMES) if sums is None else sums.tolist()


def rl_loss(
    model: GPT, batch: RolloutBatch, loss: RLLoss, temperature: float, top_k: int, statistics: TokenStatistics
) -> Tensor:
    """The loss of a micro-batch times the trained tokens of the whole step, fp32; `optimizer_step` divides by these."""
    rows_N, columns_N = (batch.targets_BT != IGNORED).nonzero(as_tuple=True)
    logprob_N, entropy_N = token_logprobs(model, batch.inputs_BT, batch.targets_BT, temperature, top_k)
    behaviour_N, reference_N = batch.behaviour_BT[rows_N, columns_N], batch.reference_BT[rows_N, columns_N]
    advantage_N, share_N = batch.advantage_B[rows_N], batch.share_B[rows_N]
    log_ratio_N = logprob_N - behaviour_N
    ratio_N = log_ratio_N.exp()
    term_N, clipped_N = _policy_term(loss, logprob_N, log_ratio_N, advantage_N, rows_N, len(batch.targets_BT))
    kl_N = torch.zeros_like(logprob_N)
    if loss.kl:
        to_reference_N = reference_N - logprob_N
        kl_N = ratio_N * (to_reference_N.exp() - to_reference_N - 1)
        term_N = term_N + loss.kl * kl_N
    count = torch.tensor(float(len(rows_N)), device=logprob_N.device)
    off_N = (ratio_N - 1).abs()
    statistics.add([count, entropy_N.sum(), ratio_N.sum(), off_N.sum(), clipped_N.sum(), kl_N.sum()])
    return (share_N * term_N).sum()


def _policy_term(
    loss: RLLoss, logprob_N: Tensor, log_ratio_N: Tensor, advantage_N: Tensor, rows_N: Tensor, B: int
) -> tuple[Tensor, Tensor]:
    """The term of each token, and whether its ratio is clipped, both (N,)."""
    low, high = 1 - loss.clip_low, 1 + loss.clip_high
    if loss.ratio == "none":
        if not loss.correction_limit:
            return -advantage_N * logprob_N, torch.zeros_like(logprob_N)
        weight_N = log_ratio_N.detach().exp()
        return -advantage_N * weight_N.clamp_max(loss.correction_limit) * logprob_N, weight_N > loss.correction_limit
    if loss.ratio == "cispo":
        weight_N = log_ratio_N.detach().exp()
        return -advantage_N * weight_N.clamp_max(high) * logprob_N, weight_N > high
    if loss.ratio == "gspo":
        zeros_B = log_ratio_N.new_zeros(B)
        count_B = zeros_B.index_add(0, rows_N, torch.ones_like(log_ratio_N)).clamp_min(1)
        log_ratio_N = (zeros_B.index_add(0, rows_N, log_ratio_N) / count_B)[rows_N]
    ratio_N = log_ratio_N.exp()
    free_N, clipped_N = ratio_N * advantage_N, ratio_N.clamp(low, high) * advantage_N
    return -torch.minimum(free_N, clipped_N), clipped_N < free_N


def token_logprobs(
    model: GPT, inputs_BT: Tensor, targets_BT: Tensor, temperature: float, top_k: int
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target (-1: none), and the entropy at its position, both (N,) fp32, in nats.

    Of the distribution with this temperature, among the `top_k` most likely tokens (0: all) and the target. The entropy
    has no gradient.
    """
    counted_BT = targets_BT != IGNORED
    x_NC, targets_N = model.trunk(inputs_BT)[counted_BT], targets_BT[counted_BT]
    rows = chunk_rows(model.architecture.vocab_size, x_NC.device)
    parts = [
        checkpoint(
            _chunk, model, x_NC[start : start + rows], targets_N[start : start + rows], temperature, top_k,
            use_reentrant=False,
        )
        for start in range(0, max(len(x_NC), 1), rows)
    ]  # fmt: skip
    return torch.cat([logprob for logprob, _ in parts]), torch.cat([entropy for _, entropy in parts])


def _chunk(model: GPT, x_NC: Tensor, targets_N: Tensor, temperature: float, top_k: int) -> tuple[Tensor, Tensor]:
    logits_NV = model.logits(x_NC) / temperature
    chosen_N1 = logits_NV.gather(1, targets_N[:, None])
    if 0 < top_k < logits_NV.shape[1]:
        least_N1 = logits_NV.detach().topk(top_k).values[:, -1:]
        excluded_NV = (logits_NV.detach() < least_N1).scatter(1, targets_N[:, None], False)
        logits_NV = logits_NV.masked_fill(excluded_NV, -torch.inf)
    log_total_N = logits_NV.logsumexp(1)
    with torch.no_grad():
        share_NV = (logits_NV - log_total_N[:, None]).exp()
        entropy_N = log_total_N - (share_NV * logits_NV.nan_to_num(neginf=0.0)).sum(1)
    return chosen_N1[:, 0] - log_total_N, entropy_N
