"""How many bits a model needs for a document: each token is scored once, in windows with context before it.

    document   0 ─────────────────────────────────────────────────────────────────→
    window 1   [start │ scored ………………………………]
    window 2                    [start │ context │ scored ……………]
    window 3                                        [start │ context │ scored …]

A document that fits the window is scored as a whole: the result is exact. `start` is the model's BOS; for a model
without one, the first window begins with its end-of-text token, which separates documents, so that the first token is
scored too and every byte counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nanochat.errors import BadConfig
from nanochat.evaluation.distributions import t_quantile
from nanochat.evaluation.language_model import Context, LanguageModel, Report
from nanochat.evaluation.statistics import CONFIDENCE, Interval


@dataclass(frozen=True)
class DocumentBits:
    """What a model needs for one document."""

    text_bytes: int
    tokens: int
    bits: float


@dataclass(frozen=True)
class Windows:
    """How documents are cut."""

    window_tokens: int
    context_tokens: int
    first: int
    """The id before a document."""
    bos: int | None
    """The id before each later window."""

    @classmethod
    def of(cls, model: LanguageModel, window_tokens: int, context_tokens: int) -> Windows:
        """The windows of a model: no larger than what it reads. Raises `BadConfig` for a model without a start."""
        window = min(window_tokens, model.context_tokens or window_tokens)
        if model.separator is None:
            raise BadConfig(
                f"`{model.name}` has neither BOS nor an end token, so nothing could predict a document's first token."
            )
        least, most = (1, window - 1) if model.bos is None else (0, window - 2)  # something must predict a token
        context = max(least, min(context_tokens, window // 2, most))
        return cls(window, context, model.separator, model.bos)

    def contexts(self, ids: Sequence[int]) -> Iterator[Context]:
        """The windows of a document that has tokens; each token is in one continuation."""
        scored = self.window_tokens - 1
        yield Context((self.first,), (tuple(ids[:scored]),))
        start = () if self.bos is None else (self.bos,)
        step = max(1, self.window_tokens - self.context_tokens - len(start))
        while scored < len(ids):
            before = ids[max(0, scored - self.context_tokens) : scored]
            yield Context((*start, *before), (tuple(ids[scored : scored + step]),))
            scored += step


def document_bits(
    model: LanguageModel, texts: Sequence[str], windows: Windows, report: Report | None = None
) -> list[DocumentBits]:
    """The bits of each document. `report` receives the number of windows that are done."""
    contexts: list[Context] = []
    owners: list[int] = []
    counts: list[int] = []
    for number, text in enumerate(texts):
        ids = model.encode(text)
        counts.append(len(ids))
        for context in windows.contexts(ids) if ids else ():
            contexts.append(context)
            owners.append(number)
    nats: list[list[float]] = [[] for _ in texts]
    for owner, (score,) in zip(owners, model.score(contexts, report), strict=True):
        nats[owner] += score.nats
    return [
        DocumentBits(len(text.encode()), count, math.fsum(each) / math.log(2))
        for text, count, each in zip(texts, counts, nats, strict=True)
    ]


def bits_per_byte(documents: Sequence[DocumentBits]) -> tuple[float, Interval | None]:
    """Bits per byte of all documents together, with its 95% interval over documents.

    The interval is that of a ratio of means by linearization, with Student's t; None for fewer than two documents.
    """
    total_bytes = sum(each.text_bytes for each in documents)
    ratio = math.fsum(each.bits for each in documents) / total_bytes
    count = len(documents)
    if count < 2:
        return ratio, None
    squares = math.fsum((each.bits - ratio * each.text_bytes) ** 2 for each in documents)
    error = math.sqrt(squares * count / (count - 1)) / total_bytes
    half = t_quantile((1 + CONFIDENCE) / 2, count - 1) * error
    return ratio, Interval(ratio - half, ratio + half)
