"""The questions of CORE as in nanochat's harness: order, examples, text, and the tokens that are scored.

    choice          EXAMPLE… query, delimiter, one of the choices       scored: what follows the common beginning
    schema          EXAMPLE… one of the contexts, delimiter, ending      scored: the common end
    continuation    EXAMPLE… context, delimiter, continuation           scored: what follows the text without it

Order: the rows shuffled by `Random(1337)`, then the first `limit`. Examples: other rows of these, drawn by
`Random(1234 + index)`, so that they depend on nothing but the place of the question.

Where a tokenizer joins the end of a question and the beginning of an answer in one token, this token is scored. A span
is never empty: if one choice is the beginning of all others, the last token that they share is scored too, for all.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from nanochat.errors import BadSource
from nanochat.evaluation.core.bundle import Row, Task
from nanochat.evaluation.language_model import Context, LanguageModel

ORDER_SEED, SHOTS_SEED = 1337, 1234


@dataclass(frozen=True)
class Prompt:
    """The texts of a question, one for each option; for a continuation, without and with it."""

    shots: str
    """The examples."""
    texts: tuple[str, ...]
    """What follows them."""

    @property
    def whole(self) -> list[str]:
        return [self.shots + text for text in self.texts]


@dataclass(frozen=True)
class Scored:
    """The tokens of a question, one row for each option."""

    rows: tuple[tuple[int, ...], ...]
    starts: tuple[int, ...]
    """The first token of each row that is scored; the last is the row's last."""
    moved: bool
    """Whether a span begins later or earlier than by nanochat's rules, by which it would be empty or cropped."""
    cropped: bool
    """Whether the beginning of a row is left out."""

    def contexts(self) -> tuple[list[Context], list[tuple[int, int]]]:
        """What a model scores, and for each row its context and its continuation there. Rows share a context."""
        places: list[tuple[int, int]] = []
        contexts: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
        for ids, start in zip(self.rows, self.starts, strict=True):
            continuations = contexts.setdefault(ids[:start], [])
            places.append((list(contexts).index(ids[:start]), len(continuations)))
            continuations.append(ids[start:])
        return [Context(ids, tuple(continuations)) for ids, continuations in contexts.items()], places


def in_order(task: Task, limit: int) -> list[Row]:
    """The questions of a task in nanochat's order, at most `limit` (0: all).

    Raises `BadSource` if there are too few for the examples of a prompt.
    """
    rows = list(task.rows)
    random.Random(ORDER_SEED).shuffle(rows)  # noqa: S311 - not a secret
    chosen = rows[: limit or None]
    if task.shots and len(chosen) <= task.shots:
        raise BadSource(
            f"`{task.name}` has prompts with {task.shots} other questions as examples, but there "
            f"{'is one question' if len(chosen) == 1 else f'are {len(chosen)} questions'}.",
            hint="Raise `core_evaluation.limit`." if len(rows) > task.shots else "The bundle is not complete.",
        )
    return chosen


def shots_of(task: Task, rows: Sequence[Row], index: int) -> list[Row]:
    """The examples before a question."""
    if not task.shots:
        return []
    drawn = random.Random(SHOTS_SEED + index).sample(range(len(rows) - 1), task.shots)  # noqa: S311
    return [rows[other + (other >= index)] for other in drawn]


def prompt_of(task: Task, rows: Sequence[Row], index: int) -> Prompt:
    """The texts of a question with its examples."""
    shots = "".join(f"{_with_answer(task, row)}\n\n" for row in shots_of(task, rows, index))
    row = rows[index]
    match task.kind:
        case "choice":
            return Prompt(shots, tuple(f"{row.query}{task.delimiter}{choice}" for choice in row.options))
        case "schema":
            return Prompt(shots, tuple(f"{context}{task.delimiter}{row.ending}" for context in row.options))
        case _:
            text = f"{row.query.strip()}{task.delimiter}"
            return Prompt(shots, (text, text + row.ending))


def scored(task: Task, prompt: Prompt, model: LanguageModel, crop_tokens: int | None) -> Scored:
    """Encodes a question and finds what is scored; rows longer than `crop_tokens` lose their beginning.

    Raises `BadSource` if nothing can be scored.
    """
    texts = prompt.whole
    if task.kind == "continuation":
        texts[0] = texts[0].rstrip()  # a space at the end would be a part of the next token
    before = () if model.bos is None else (model.bos,)
    encoded = [(*before, *model.encode(text)) for text in texts]
    shortest = min(map(len, encoded))
    if task.kind == "schema":
        length = _common([ids[::-1] for ids in encoded])
        # a text has a span of at least a token, and its first token has no probability
        tokens = max(1, min(length, shortest - 1))
        starts = [len(ids) - tokens for ids in encoded]
        moved = tokens != length
    else:
        length = _common(encoded)
        if task.kind == "continuation":
            encoded = encoded[1:]
        starts = [max(1, min(length, min(map(len, encoded)) - 1))] * len(encoded)
        moved = starts[0] != length
    if any(start >= len(ids) for ids, start in zip(encoded, starts, strict=True)):
        raise BadSource(
            f"`{task.name}`: a text has no token with a probability: {prompt.texts[-1]!r:.100}.",
            hint="The first token of a text has none if the model reads no BOS before it.",
        )
    return _cropped(encoded, starts, moved, crop_tokens)


def _cropped(encoded: list[tuple[int, ...]], starts: list[int], moved: bool, crop_tokens: int | None) -> Scored:
    dropped = [max(0, len(ids) - crop_tokens) if crop_tokens else 0 for ids in encoded]
    left = [start - lost for start, lost in zip(starts, dropped, strict=True)]
    rows = tuple(ids[lost:] for ids, lost in zip(encoded, dropped, strict=True))
    return Scored(rows, tuple(max(1, start) for start in left), moved or min(left) < 1, any(dropped))


def _with_answer(task: Task, row: Row) -> str:
    match task.kind:
        case "choice":
            return f"{row.query}{task.delimiter}{row.options[row.gold]}"
        case "schema":
            return f"{row.options[row.gold]}{task.delimiter}{row.ending}"
        case _:
            return f"{row.query.strip()}{task.delimiter}{row.ending}"


def _common(rows: Sequence[tuple[int, ...]]) -> int:
    """The number of first tokens that all rows share."""
    low, high = min(rows), max(rows)  # what these share, those between them share too
    for length, (one, other) in enumerate(zip(low, high, strict=False)):
        if one != other:
            return length
    return len(low)
