"""Evaluates the questions of one task: what each rank does."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nanochat.errors import BadConfig, Diverged
from nanochat.evaluation.core.bundle import Row, Task
from nanochat.evaluation.core.prompts import Prompt, Scored, prompt_of, scored
from nanochat.evaluation.examples import Example, prompt_hash
from nanochat.evaluation.language_model import LanguageModel, Score

QUESTIONS_AT_ONCE = 64


@dataclass(frozen=True)
class Answered:
    """One question with the model's answer."""

    index: int
    """Its place in the task's order."""
    example: Example
    seconds: float
    tokens: int
    """Of the longest text."""
    moved: bool
    cropped: bool


def answer(
    model: LanguageModel, task: Task, rows: Sequence[Row], indexes: Sequence[int], *, crop: bool,
    report: Callable[[int], None] = lambda number: None, at_once: int = QUESTIONS_AT_ONCE,
) -> list[Answered]:  # fmt: skip
    """Answers the questions with these indexes, longest first; returns them in the order of their indexes.

    `report` receives the number of answered questions. Raises `BadConfig` for a prompt that the model cannot read, and
    `Diverged` if a probability is not a number.
    """
    prompts = {index: prompt_of(task, rows, index) for index in indexes}
    longest_first = sorted(indexes, key=lambda index: (-max(map(len, prompts[index].whole)), index))
    answered: list[Answered] = []
    for start in range(0, len(longest_first), at_once):
        some = {index: prompts[index] for index in longest_first[start : start + at_once]}
        before = len(answered)
        answered += _answer_some(model, task, rows, some, crop, lambda number, before=before: report(before + number))
    return sorted(answered, key=lambda each: each.index)


def _answer_some(
    model: LanguageModel, task: Task, rows: Sequence[Row], prompts: dict[int, Prompt], crop: bool,
    report: Callable[[int], None],
) -> list[Answered]:  # fmt: skip
    began = time.monotonic()
    limit = model.context_tokens if crop else None
    questions = {index: scored(task, prompt, model, limit) for index, prompt in prompts.items()}
    for question in questions.values():
        _check_length(model, task, question)
    longest_first = sorted(questions, key=lambda index: (-max(map(len, questions[index].rows)), index))
    parts = {index: questions[index].contexts() for index in longest_first}
    scores = model.score([context for contexts, _ in parts.values() for context in contexts])
    found: dict[int, list[Score]] = {}
    for index, (contexts, places) in parts.items():
        of_contexts = [next(scores) for _ in contexts]
        found[index] = [of_contexts[context][continuation] for context, continuation in places]
        report(len(found))
    seconds = (time.monotonic() - began) / len(questions)
    answered: list[Answered] = []
    for index, question in questions.items():
        example = _example(model, task, rows[index], prompts[index], question, found[index])
        tokens = max(map(len, question.rows))
        answered.append(Answered(index, example, seconds, tokens, question.moved, question.cropped))
    return answered


def _check_length(model: LanguageModel, task: Task, question: Scored) -> None:
    longest = max(map(len, question.rows))
    if model.context_tokens is not None and longest > model.context_tokens:
        raise BadConfig(
            f"A prompt of `{task.name}` has {longest:,} tokens, but the model reads {model.context_tokens:,}.",
            hint="Set `core_evaluation.overlong=crop`, as nanochat does for such models.",
        )


def _example(
    model: LanguageModel, task: Task, row: Row, prompt: Prompt, question: Scored, scores: Sequence[Score]
) -> Example:
    nats = [math.fsum(score.nats) for score in scores]
    tokens = [len(score.nats) for score in scores]
    if not all(map(math.isfinite, nats)):
        raise Diverged(
            f"The model gives no probabilities for question {row.number} of `{task.name}`: its output is not a number.",
            hint="Its weights are damaged, or training diverged.",
        )
    if task.kind == "continuation":
        (score,) = scores
        options, gold, right = (row.ending,), row.ending, score.greedy
        chosen = row.ending if right else model.decode(score.most_likely)
    else:
        means = [total / count for total, count in zip(nats, tokens, strict=True)]
        best = means.index(min(means))
        options, gold, chosen, right = row.options, row.options[row.gold], row.options[best], best == row.gold
    texts = options if task.kind == "choice" else [row.ending] * len(nats)
    shown, read = _texts(task, row, prompt)
    return Example(
        task=task.name,
        question=str(row.number),
        kind=task.kind,
        group=_group(task, row),
        baseline=task.baseline,
        prompt=shown,
        prompt_sha256=prompt_hash(read),
        span_tokens=tuple((start, len(ids)) for start, ids in zip(question.starts, question.rows, strict=True)),
        choices=options,
        choice_nats=tuple(nats),
        choice_tokens=tuple(tokens),
        choice_bytes=tuple(len(text.encode()) for text in texts),
        gold=gold,
        gold_bits=nats[row.gold] / math.log(2),
        answer=chosen,
        right=right,
        verdict="right" if right else "wrong",
    )


def _texts(task: Task, row: Row, prompt: Prompt) -> tuple[str, str]:
    """The question as a person reads it, and everything that the model reads before the answer."""
    match task.kind:
        case "choice":
            return row.query, prompt.shots + row.query + task.delimiter
        case "schema":
            return row.ending, prompt.shots + row.ending
        case _:
            return row.query.strip(), prompt.shots + prompt.texts[0]


def _group(task: Task, row: Row) -> str:
    """Questions about one passage, and the twins of a schema, have the same group."""
    match task.kind:
        case "schema":
            return prompt_hash("\n".join(row.options))[:16]
        case _:
            passage = row.query.partition("\nQuestion:")[0].partition("\nPreceding questions:")[0]
            return prompt_hash(passage)[:16] if passage != row.query and _has_passage(row.query) else ""


def _has_passage(query: str) -> bool:
    return query.lstrip().startswith(("Context:", "Passage:", "Story:", "Below is a story"))
