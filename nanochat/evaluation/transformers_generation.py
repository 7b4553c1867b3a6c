"""The state of a batch of answers that a model of transformers generates: tokens, padding, and which of them go on.

Shapes: B rows that are computed · T time · V vocabulary
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nanochat.evaluation.language_model import Generated
from nanochat.inference.request import SamplingParameters
from nanochat.inference.sampling import Row, Sampler

Decode = Callable[[Sequence[int]], str]
TAIL_TOKENS = 8
"""A stop string is looked for in the last tokens: as many as it has bytes, and these for a token that is longer."""


@dataclass
class GeneratedRow:
    """One answer while it is generated."""

    row: Row
    most: int
    """Limit of its tokens: `max_tokens`, or what the context leaves."""
    complete: bool = False
    done: bool = False
    stop: tuple[str, ...] = field(default=())


class Batch:
    """Answers that are generated together. Rows that have ended are computed until half of the batch has ended."""

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        numbers: Sequence[int],
        sampling: SamplingParameters,
        ends: frozenset[int],
        decode: Decode,
        context_tokens: int,
    ) -> None:
        self.answers = [
            GeneratedRow(
                Row(sampling, number, prompt), min(sampling.max_tokens, context_tokens - len(prompt)),
                stop=tuple(each for each in sampling.stop if each),
            )
            for prompt, number in zip(prompts, numbers, strict=True)
        ]  # fmt: skip
        self._ends = sampling.stop_ids | (frozenset() if sampling.ignore_end else ends)
        self._decode, self._sampler = decode, Sampler()
        self._rows = list(self.answers)
        """Those that are computed."""
        width = max(map(len, prompts))
        self._mask_BT = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])

    @property
    def running(self) -> bool:
        """Whether an answer has not ended."""
        return any(not answer.done for answer in self._rows)

    def inputs(self, *, first: bool) -> tuple[Tensor, Tensor]:
        """The ids of this step, (B, T) or (B, 1), and the attention mask of all steps so far."""
        width = self._mask_BT.shape[1]
        if first:
            rows = [[*[0] * (width - len(each.row.prompt)), *each.row.prompt] for each in self._rows]
            return torch.tensor(rows), self._mask_BT
        self._mask_BT = torch.cat([self._mask_BT, self._mask_BT.new_ones(len(self._rows), 1)], 1)
        return torch.tensor([[each.row.answer[-1] if each.row.answer else 0] for each in self._rows]), self._mask_BT

    def accept(self, logits_BV: Tensor) -> Tensor | None:
        """Chooses the next token of each row; the rows that are computed from now on, if not all."""
        ids, _ = self._sampler.sample(logits_BV, [each.row for each in self._rows])
        for answer, token in zip(self._rows, ids, strict=True):
            if not answer.done:
                self._append(answer, token)
        left = [place for place, answer in enumerate(self._rows) if not answer.done]
        if not left or len(left) > len(self._rows) / 2:
            return None
        self._rows = [self._rows[place] for place in left]
        index = torch.tensor(left)
        self._mask_BT = self._mask_BT[index]
        return index

    def _append(self, answer: GeneratedRow, token: int) -> None:
        if token in self._ends:
            answer.done = answer.complete = True
            return
        answer.row.answer.append(token)
        if answer.stop:
            longest = max(len(each.encode()) for each in answer.stop)
            tail = self._decode(answer.row.answer[-longest - TAIL_TOKENS :])
            answer.complete = any(each in tail for each in answer.stop)
        answer.done = answer.complete or len(answer.row.answer) >= answer.most


def ended(answer: GeneratedRow, decode: Decode) -> Generated:
    """The answer up to its first stop string; its ids are those that wrote this text."""
    ids = list(answer.row.answer)
    text = decode(ids)
    cut = min((place for each in answer.stop if (place := text.find(each)) >= 0), default=len(text))
    if cut < len(text):
        text = text[:cut]
        while ids and len(decode(ids[:-1])) >= cut:
            ids.pop()
    return Generated(tuple(ids), text, answer.complete)
