"""The tables of an evaluation: every number is computed from its examples."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanochat.errors import BadSource
from nanochat.evaluation.examples import Example, by_task
from nanochat.evaluation.statistics import (
    CONFIDENCE,
    DRAWS,
    Estimate,
    Interval,
    Sample,
    accuracy_interval,
    pass_at_k,
    weighted_mean,
)


@dataclass(frozen=True)
class TaskRow:
    """One task's line of a table."""

    kind: str
    questions: int
    answers: int
    right: int
    accuracy: float
    interval: Interval
    baseline: float
    """Accuracy of a guess: the mean over the questions, unless the caller names another."""
    centered: float
    """(accuracy - baseline) / (1 - baseline)."""
    flexible_accuracy: float | None
    """By the task's more lenient rule, if it has one."""
    gold_bits: float | None
    """Mean negative log2-probability of the right answer, if it is known for every question."""
    no_answer: dict[str, int]
    """Why there was no answer, with the number of answers."""
    pass_at: dict[int, tuple[float, Interval]]
    """Unbiased pass@k for powers of two k, if questions are answered several times."""
    subjects: dict[str, "TaskRow"]
    """The parts of the task, if it has several."""

    def as_json(self) -> dict[str, Any]:
        """For `evaluation.json`; what the task does not have is left out."""
        found: dict[str, Any] = {
            "kind": self.kind,
            "accuracy": self.accuracy,
            "interval": [self.interval.low, self.interval.high],
            "baseline": self.baseline,
            "centered": self.centered,
            "questions": self.questions,
            "answers": self.answers,
            "right": self.right,
        }
        optional = {
            "flexible_accuracy": self.flexible_accuracy,
            "gold_bits": self.gold_bits,
            "no_answer": self.no_answer or None,
            "pass_at": {str(k): [value, [i.low, i.high]] for k, (value, i) in self.pass_at.items()} or None,
            "subjects": {name: row.as_json() for name, row in self.subjects.items()} or None,
        }
        return found | {name: value for name, value in optional.items() if value is not None}


def sample(examples: Sequence[Example]) -> Sample:
    """The questions of one task with their clusters: those of one `group` share material."""
    questions = by_question(examples)
    values = [sum(answer.right for answer in each) / len(each) for each in questions.values()]
    return Sample(np.array(values), clusters(list(questions.values())), len(examples))


def clusters(questions: Sequence[Sequence[Example]]) -> NDArray[np.int64]:
    """The number of each question's cluster, from 0: its group's, or its own.

    Inside one subject, a group that is the subject itself joins nothing.
    """
    numbers: dict[tuple[str, str], int] = {}
    is_one_subject = len({each[0].subject for each in questions}) == 1
    found: list[int] = []
    for answers in questions:
        first = answers[0]
        is_grouped = first.group and not (is_one_subject and first.group == first.subject)
        name = ("group", first.group) if is_grouped else ("question", first.question)
        found.append(numbers.setdefault(name, len(numbers)))
    return np.array(found)


def by_question(examples: Sequence[Example]) -> dict[str, list[Example]]:
    """The answers to each question of one task. Raises `BadSource` for one answer that is there twice."""
    questions: dict[str, list[Example]] = {}
    seen: set[tuple[str, int]] = set()
    for example in examples:
        if (example.question, example.sample) in seen:
            raise BadSource(f"The question `{example.question}` of `{example.task}` was answered twice.")
        seen.add((example.question, example.sample))
        questions.setdefault(example.question, []).append(example)
    return questions


def task_row(examples: Sequence[Example], baseline: float | None = None, confidence: float = CONFIDENCE) -> TaskRow:
    """The line of one task, from its examples."""
    answered = sample(examples)
    guess = chance(examples, baseline)
    flexible = [example.right_flexible for example in examples if example.right_flexible is not None]
    subjects = by_subject(examples)
    return TaskRow(
        kind=examples[0].kind,
        questions=len(answered.values),
        answers=answered.answers,
        right=sum(example.right for example in examples),
        accuracy=answered.mean,
        interval=accuracy_interval(answered, confidence),
        baseline=guess,
        centered=(answered.mean - guess) / (1 - guess),
        flexible_accuracy=sum(flexible) / len(flexible) if len(flexible) == len(examples) else None,
        gold_bits=_gold_bits(examples),
        no_answer=dict(Counter(e.verdict for e in examples if e.verdict not in ("right", "wrong"))),
        pass_at=_pass_at(examples, answered, confidence),
        subjects={name: task_row(each, baseline, confidence) for name, each in subjects.items()},
    )


def by_subject(examples: Sequence[Example]) -> dict[str, list[Example]]:
    """The examples of each subject; none, if the task has no two."""
    subjects: dict[str, list[Example]] = {}
    for example in examples:
        subjects.setdefault(example.subject, []).append(example)
    if len(subjects) < 2:
        return {}
    return dict(sorted(subjects.items()))


def task_rows(
    examples: Sequence[Example], baselines: Mapping[str, float] | None = None, confidence: float = CONFIDENCE
) -> dict[str, TaskRow]:
    """The line of each task. `baselines` replace those of the examples, for tasks that it names."""
    given = baselines or {}
    return {name: task_row(each, given.get(name), confidence) for name, each in by_task(examples).items()}


def overall(
    examples: Sequence[Example],
    baselines: Mapping[str, float] | None = None,
    confidence: float = CONFIDENCE,
    draws: int = DRAWS,
) -> Estimate:
    """Mean centered accuracy over tasks (CORE, ChatCORE), with an interval by a bootstrap stratified by task.

    Centered accuracy is (accuracy - baseline) / (1 - baseline), as in DCLM (arXiv:2406.11794).
    """
    tasks = by_task(examples)
    if not tasks:
        raise BadSource("There are no examples to compute a score from.")
    rows = {name: (sample(each), chance(each, (baselines or {}).get(name))) for name, each in tasks.items()}
    weights = [1 / (1 - baseline) / len(rows) for _, baseline in rows.values()]
    offset = -math.fsum(weight * baseline for weight, (_, baseline) in zip(weights, rows.values(), strict=True))
    return weighted_mean([each for each, _ in rows.values()], weights, offset, confidence, draws)


def chance(examples: Sequence[Example], baseline: float | None = None) -> float:
    """Accuracy of a guess at the questions of one task. Raises `BadSource` unless it is at least 0 and below 1."""
    found = float(np.mean([example.baseline for example in examples])) if baseline is None else baseline
    if not 0 <= found < 1:
        raise BadSource(
            f"The accuracy of a guess at `{examples[0].task}` is {found}; it must be at least 0 and below 1."
        )
    return found


def tables(
    examples: Sequence[Example], score: str = "chatcore", baselines: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """The part of `evaluation.json` that is computed from examples.

    `tasks` has a line for each task, `{score}` is the mean centered accuracy, `{score}_interval` its two ends.
    """
    found = overall(examples, baselines)
    return {
        "tasks": {name: row.as_json() for name, row in task_rows(examples, baselines).items()},
        score: found.value,
        f"{score}_interval": [found.interval.low, found.interval.high],
        "confidence": CONFIDENCE,
    }


def _gold_bits(examples: Sequence[Example]) -> float | None:
    bits = [example.gold_bits for example in examples]
    for example in examples:
        if example.gold_bits is not None and not math.isfinite(example.gold_bits):
            raise BadSource(f"The bits of the right answer to `{example.question}` of `{example.task}` are not finite.")
    known = [each for each in bits if each is not None]
    return math.fsum(known) / len(known) if len(known) == len(bits) else None


def _pass_at(examples: Sequence[Example], answered: Sample, confidence: float) -> dict[int, tuple[float, Interval]]:
    answers = [len(each) for each in by_question(examples).values()]
    right = [sum(answer.right for answer in each) for each in by_question(examples).values()]
    found: dict[int, tuple[float, Interval]] = {}
    k = 1
    while k <= min(answers) and max(answers) > 1:
        values = pass_at_k(right, answers, k)
        tries = Sample(values, answered.clusters, sum(each // k for each in answers))
        found[k] = (tries.mean, accuracy_interval(tries, confidence))
        k *= 2
    return found
