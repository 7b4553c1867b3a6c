"""Chooses the next token of each row of a batch, from the logits and the sampling parameters of that row alone.

    logits  → repetition, presence and frequency penalties, bias, grammar      rows that have them
            → divided by the temperature
            → tokens below a threshold dropped: the highest of those of top-k, top-p and min-p
            → the token at which the cumulative probability passes a uniform number

The uniform number is a hash of the seed, the answer's number and the token's position, not the state of a generator
that rows would share. Top-p adds up the probabilities of what top-k leaves. Tokens tied with the last one stay.

Shapes: B batch · N rows of the batch that are sampled · V vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from nanochat.inference.request import Grammar, SamplingParameters, TokenLogprob
from nanochat.inference.validation import MIN_TEMPERATURE

LIKELY = 256
"""Top-p is looked for among this many tokens first; sorting a whole vocabulary takes longer."""


@dataclass
class Row:
    """What the sampling of one answer depends on."""

    sampling: SamplingParameters
    number: int
    """Number of the answer in its request."""
    prompt: Sequence[int]
    grammar: Grammar | None = None
    answer: list[int] = field(default_factory=list)
    """Its ids so far."""
    forced: list[int] = field(default_factory=list)
    """The ids that come next without sampling."""

    def __post_init__(self) -> None:
        sampling = self.sampling
        self.greedy = sampling.temperature < MIN_TEMPERATURE
        self.edited = bool(
            self.grammar is not None
            or sampling.repetition_penalty != 1
            or sampling.presence_penalty
            or sampling.frequency_penalty
            or sampling.logit_bias
        )
        self.plain = self.greedy and not self.edited and sampling.logprobs is None
        self._counts_V: Tensor | None = None
        self._counted = 0

    def counts(self, logits_V: Tensor) -> Tensor:
        """How often each id is in the answer, (V,) fp32."""
        if self._counts_V is None:
            self._counts_V = torch.zeros_like(logits_V)
        for token in self.answer[self._counted :]:
            self._counts_V[token] += 1
        self._counted = len(self.answer)
        return self._counts_V

    @cached_property
    def prompt_ids(self) -> Tensor:
        return torch.tensor(self.prompt).unique()


class Sampler:
    """Samples batches; keeps the parameters of a batch as tensors while its rows stay the same."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._batch: _Batch | None = None

    @torch.inference_mode()
    def sample(self, logits_BV: Tensor, rows: Sequence[Row]) -> tuple[list[int], list[TokenLogprob | None]]:
        """One id per row, and its log-probabilities if the row wants them. Writes to `logits_BV`.

        The id of a row with forced ids is the first of them.
        """
        if all(row.plain for row in rows):
            return _with_forced(_likeliest(logits_BV), rows), [None] * len(rows)
        raw_NV = _raw(logits_BV, rows)
        for b, row in enumerate(rows):
            if row.edited:
                _edit(logits_BV[b], row)
        ids_B = _likeliest(logits_BV)
        batch = self._parameters(rows, logits_BV.shape[1], logits_BV.device)
        scaled_NV: Tensor | None = None
        if batch.sampled:
            scaled_NV = _scaled(logits_BV if batch.all_sampled else logits_BV[batch.rows_N], batch)
            ids_B[batch.rows_N] = _drawn(scaled_NV, batch.uniform(rows).to(logits_BV.device))
        ids = _with_forced(ids_B, rows)
        return ids, _row_logprobs(rows, ids, raw_NV, logits_BV, scaled_NV, batch.sampled)

    def _parameters(self, rows: Sequence[Row], V: int, device: torch.device) -> _Batch:
        same = len(rows) == len(self._rows) and all(a is b for a, b in zip(rows, self._rows, strict=True))
        if self._batch is None or not same:
            self._rows, self._batch = list(rows), _Batch.of(rows, V, device)
        return self._batch


@dataclass(frozen=True)
class _Batch:
    """The parameters of the rows that are sampled, as tensors."""

    sampled: list[int]
    """Their numbers in the batch, N."""
    all_sampled: bool
    keys_N: np.ndarray  # noqa: N815 - the suffix is its shape
    """Hash of seed and number of the answer, uint64."""
    rows_N: Tensor  # noqa: N815 - the suffix is its shape
    temperature_N1: Tensor  # noqa: N815 - the suffix is its shape
    top_k_N1: Tensor  # noqa: N815 - the suffix is its shape
    top_k: int
    """The highest top-k that excludes tokens; 0: none does."""
    top_k_limits_N1: Tensor  # noqa: N815 - the suffix is its shape
    """Whether the row's top-k excludes tokens."""
    top_p_N: Tensor  # noqa: N815 - the suffix is its shape
    has_top_p: bool
    min_p_N1: Tensor  # noqa: N815 - the suffix is its shape
    has_min_p: bool

    @staticmethod
    def of(rows: Sequence[Row], V: int, device: torch.device) -> _Batch:
        sampled = [b for b, row in enumerate(rows) if not row.greedy]
        chosen = [rows[b].sampling for b in sampled]
        top_k = [s.top_k if 0 < s.top_k < V else 0 for s in chosen]
        seeds = np.array([s.seed for s in chosen], np.uint64)
        numbers = np.array([rows[b].number for b in sampled], np.uint64)
        return _Batch(
            sampled=sampled,
            all_sampled=len(sampled) == len(rows),
            keys_N=_mixed(_mixed(seeds) ^ numbers),
            rows_N=torch.tensor(sampled, dtype=torch.int64, device=device),
            temperature_N1=torch.tensor([[s.temperature] for s in chosen], dtype=torch.float32, device=device),
            top_k_N1=torch.tensor([[max(k, 1)] for k in top_k], dtype=torch.int64, device=device),
            top_k=max(top_k, default=0),
            top_k_limits_N1=torch.tensor([[k > 0] for k in top_k], device=device),
            top_p_N=torch.tensor([s.top_p for s in chosen], dtype=torch.float64, device=device),
            has_top_p=any(s.top_p < 1 for s in chosen),
            min_p_N1=torch.tensor([[s.min_p] for s in chosen], dtype=torch.float32, device=device),
            has_min_p=any(s.min_p for s in chosen),
        )

    def uniform(self, rows: Sequence[Row]) -> Tensor:
        """A number from 0 to below 1 for each sampled row, (N,) float64."""
        positions = np.array([len(rows[b].answer) for b in self.sampled], np.uint64)
        return torch.from_numpy((_mixed(self.keys_N ^ positions) >> np.uint64(11)) * 2.0**-53)


def _likeliest(logits_BV: Tensor) -> Tensor:
    """The id with the highest logit of each row, (B,): the first of several."""
    if logits_BV.device.type != "cpu":
        return logits_BV.argmax(-1)
    return torch.from_numpy(logits_BV.numpy().argmax(1))  # a tenth of the time of torch's


def _with_forced(ids_B: Tensor, rows: Sequence[Row]) -> list[int]:
    return [row.forced[0] if row.forced else token for row, token in zip(rows, ids_B.tolist(), strict=True)]


def _mixed(x: np.ndarray) -> np.ndarray:
    """A hash of each uint64: one step of the generator SplitMix64 (Steele, Lea and Flood, 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _edit(logits_V: Tensor, row: Row) -> None:
    """Applies penalties, bias and grammar to the logits of a row."""
    sampling = row.sampling
    if sampling.repetition_penalty != 1:
        seen_V = row.counts(logits_V) > 0
        seen_V[row.prompt_ids.to(logits_V.device)] = True
        penalty = sampling.repetition_penalty
        penalized_V = torch.where(logits_V > 0, logits_V / penalty, logits_V * penalty)
        torch.where(seen_V, penalized_V, logits_V, out=logits_V)
    if sampling.presence_penalty or sampling.frequency_penalty:
        counts_V = row.counts(logits_V)
        logits_V -= sampling.presence_penalty * (counts_V > 0) + sampling.frequency_penalty * counts_V
    if sampling.logit_bias:
        ids = torch.tensor(list(sampling.logit_bias), device=logits_V.device)
        logits_V[ids] += torch.tensor(list(sampling.logit_bias.values()), device=logits_V.device)
    if row.grammar is not None:
        logits_V[torch.from_numpy(~row.grammar.allowed()).to(logits_V.device)] = -torch.inf


def _scaled(logits_NV: Tensor, batch: _Batch) -> Tensor:
    """Logits by temperature, -inf where top-k, top-p or min-p excludes a token, (N, V)."""
    scaled_NV = logits_NV / batch.temperature_N1
    if not (batch.top_k or batch.has_top_p or batch.has_min_p):
        return scaled_NV
    limit_N1 = torch.full_like(scaled_NV[:, :1], -torch.inf)
    if batch.top_k:
        last_N1 = _best(scaled_NV, batch.top_k).gather(1, batch.top_k_N1 - 1)
        limit_N1 = torch.where(batch.top_k_limits_N1, last_N1, limit_N1)
    if batch.has_top_p:
        limit_N1 = torch.maximum(limit_N1, _top_p_limit(scaled_NV.masked_fill(scaled_NV < limit_N1, -torch.inf), batch))
    if batch.has_min_p:
        limit_N1 = torch.maximum(limit_N1, scaled_NV.amax(1, keepdim=True) + batch.min_p_N1.log())
    return scaled_NV.masked_fill_(scaled_NV < limit_N1, -torch.inf)


def _best(scaled_NV: Tensor, count: int) -> Tensor:
    """The `count` highest values of each row, the highest first."""
    if scaled_NV.device.type != "cpu":
        return scaled_NV.topk(count).values
    start = scaled_NV.shape[1] - count
    best = np.partition(scaled_NV.numpy(), start, axis=1)[:, start:]  # a third of the time of torch's topk
    best.sort(axis=1)
    return torch.from_numpy(best[:, ::-1].copy())


def _top_p_limit(scaled_NV: Tensor, batch: _Batch) -> Tensor:
    """The smallest scaled logit of the most likely tokens whose probabilities add up to `top_p`, (N, 1)."""
    total_N1 = scaled_NV.logsumexp(1, keepdim=True)
    top_p_N1 = batch.top_p_N[:, None]
    for count in (min(LIKELY, scaled_NV.shape[1]), scaled_NV.shape[1]):
        best_NK = _best(scaled_NV, count)
        below_NK = (best_NK - total_N1).exp().cumsum(1, dtype=torch.float64) < top_p_N1
        needed_N1 = below_NK.sum(1, keepdim=True)
        if bool(((needed_N1 < count) | (top_p_N1 >= 1)).all()):
            break
    limit_N1 = best_NK.gather(1, needed_N1.clamp_max(count - 1))
    return torch.where(top_p_N1 < 1, limit_N1, -torch.inf)


def _drawn(scaled_NV: Tensor, uniform_N: Tensor) -> Tensor:
    """The first id whose cumulative probability is above the uniform number, (N,)."""
    weight_NV = (scaled_NV - scaled_NV.amax(1, keepdim=True)).exp_()
    cumulative_NV = weight_NV.cumsum(1, dtype=torch.float64)
    wanted_N1 = uniform_N[:, None] * cumulative_NV[:, -1:]
    return torch.searchsorted(cumulative_NV, wanted_N1, right=True)[:, 0].clamp_max(scaled_NV.shape[1] - 1)


# --- log-probabilities ------------------------------------------------------------------------------------------------


def token_logprobs(logits_NV: Tensor, ids: Sequence[int], top: int) -> list[TokenLogprob]:
    """Log-probabilities of one id per row of logits, and of the `top` most likely ids of each row."""
    logprobs_NV = torch.log_softmax(logits_NV.float(), -1)
    chosen = logprobs_NV.gather(1, torch.tensor(ids, device=logprobs_NV.device)[:, None])[:, 0].tolist()
    best = logprobs_NV.topk(min(top, logprobs_NV.shape[1]))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [
        TokenLogprob(token, logprob, tuple(zip(*pair, strict=True)))
        for token, logprob, pair in zip(ids, chosen, pairs, strict=True)
    ]


def _raw(logits_BV: Tensor, rows: Sequence[Row]) -> dict[int, Tensor]:
    """Copies of the model's logits, of rows that want their log-probabilities."""
    return {
        b: logits_BV[b].clone()
        for b, row in enumerate(rows)
        if row.sampling.logprobs is not None and not row.sampling.scaled_logprobs
    }


def _row_logprobs(
    rows: Sequence[Row],
    ids: Sequence[int],
    raw: dict[int, Tensor],
    edited_BV: Tensor,
    scaled_NV: Tensor | None,
    sampled: Sequence[int],
) -> list[TokenLogprob | None]:
    logprobs: list[TokenLogprob | None] = [None] * len(rows)
    place = {b: n for n, b in enumerate(sampled)}
    by_top: dict[int, list[int]] = {}
    for b, row in enumerate(rows):
        if row.sampling.logprobs is not None:
            by_top.setdefault(row.sampling.logprobs, []).append(b)

    def logits_of(b: int) -> Tensor:
        if rows[b].sampling.scaled_logprobs and not rows[b].greedy and scaled_NV is not None:
            return scaled_NV[place[b]]
        return raw[b] if b in raw else edited_BV[b]

    for top, some in by_top.items():
        found = token_logprobs(torch.stack([logits_of(b) for b in some]), [ids[b] for b in some], top)
        for b, logprob in zip(some, found, strict=True):
            logprobs[b] = logprob
    return logprobs
