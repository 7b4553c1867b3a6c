"""Two models on the same questions, in words: better, worse, cannot tell.

A difference is always that of the second model minus that of the first one, on the questions that both answered. It
is about these two models: another seed of training gives other models, which is a noise of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nanochat.errors import NotComparable
from nanochat.evaluation.examples import Example, by_task
from nanochat.evaluation.paired import Pairs, Test, detectable, difference_interval, exact_test, holm
from nanochat.evaluation.statistics import CONFIDENCE, DRAWS, Estimate, Interval, Sample, spread, weighted_mean
from nanochat.evaluation.tables import by_question, chance, clusters

Verdict = Literal["better", "worse", "cannot tell"]

NOT_RULES = ("limit", "tasks", "samples", "seed")
"""Fields of an evaluation's config that choose questions and repeat answers, but do not change what is right."""
SHOWN = 3


@dataclass(frozen=True)
class Answers:
    """The answers of one model in one evaluation."""

    name: str
    """Of the model."""
    examples: Sequence[Example]
    rules: Mapping[str, Any]
    """What decides on an answer besides model and prompt: stage, stop rules, length, sampling."""


@dataclass(frozen=True)
class Difference:
    """The second model against the first."""

    questions: int
    first: float
    second: float
    difference: float
    interval: Interval
    probability: float
    """Two-sided, if the models are equally good."""
    adjusted: float
    """The same after Holm's correction for all tasks."""
    detectable: float
    """Smallest true difference that is seen with a probability of 0.8."""
    verdict: Verdict


@dataclass(frozen=True)
class Comparison:
    """A model against another one: on each task, and over all."""

    first: str
    second: str
    tasks: dict[str, Difference]
    overall: Difference
    """Of the mean centered accuracies over these tasks."""
    left_out: dict[str, int]
    """Task → questions that only one of the models answered."""
    confidence: float


def rules_of(stage: str, version: int, config: Mapping[str, Any]) -> dict[str, Any]:
    """The rules of an evaluation, from its manifest."""
    rules = {name: value for name, value in config.items() if name not in NOT_RULES}
    return {"stage": stage, "version of the stage": version, **rules}


def compare(first: Answers, second: Answers, confidence: float = CONFIDENCE, draws: int = DRAWS) -> Comparison:
    """Compares two models on the questions that both answered.

    Raises `NotComparable`, naming the rule, task or question, if the rules or prompts differ, or if they have no
    question in common.
    """
    tasks, left_out = paired_tasks(first, second)
    tests = [exact_test(task.pairs) for task in tasks.values()]
    adjusted = holm([test.either for test in tests])
    level = 1 - (1 - confidence) / len(tasks)
    found = {
        name: _of_task(task, test, holm_probability, confidence, level)
        for (name, task), test, holm_probability in zip(tasks.items(), tests, adjusted, strict=True)
    }
    overall = _overall(tasks, confidence, draws)
    return Comparison(first.name, second.name, found, overall, left_out, confidence)


@dataclass(frozen=True)
class PairedTask:
    """One task that two models answered."""

    pairs: Pairs
    first: float
    second: float
    baseline: float


def paired_tasks(first: Answers, second: Answers) -> tuple[dict[str, PairedTask], dict[str, int]]:
    """The common questions of each common task; task → questions that only one has. Raises `NotComparable`."""
    _check_rules(first, second)
    ours, theirs = by_task(first.examples), by_task(second.examples)
    tasks: dict[str, PairedTask] = {}
    left_out: dict[str, int] = {}
    for name in dict.fromkeys([*ours, *theirs]):
        mine, yours = by_question(ours.get(name, [])), by_question(theirs.get(name, []))
        common = [question for question in mine if question in yours]
        if len(common) < len(mine) or len(common) < len(yours):
            left_out[name] = len(mine) + len(yours) - 2 * len(common)
        if common:
            _check_questions(name, [(mine[each][0], yours[each][0]) for each in common], first, second)
            tasks[name] = _pair([mine[each] for each in common], [yours[each] for each in common])
    if not tasks:
        raise NotComparable(
            f"{first.name} and {second.name} have no question in common.",
            hint=f"One answered {_names(ours)}, the other one {_names(theirs)}.",
        )
    return tasks, left_out


def overall_estimate(tasks: Mapping[str, PairedTask], confidence: float = CONFIDENCE, draws: int = DRAWS) -> Estimate:
    """The difference of the mean centered accuracies, with two questions of doubt for each task."""
    samples, weights = [], []
    for task in tasks.values():
        values, groups = task.pairs.with_doubt()
        samples.append(Sample(values, groups, len(values)))
        weights.append(1 / (1 - task.baseline) / len(tasks))
    return weighted_mean(samples, weights, 0.0, confidence, draws)


def centered_means(tasks: Mapping[str, PairedTask]) -> tuple[float, float]:
    """The mean centered accuracy of each of the two models."""
    of = [
        ((t.first - t.baseline) / (1 - t.baseline), (t.second - t.baseline) / (1 - t.baseline)) for t in tasks.values()
    ]
    return float(np.mean([one for one, _ in of])), float(np.mean([other for _, other in of]))


def _of_task(task: PairedTask, test: Test, adjusted: float, confidence: float, level: float) -> Difference:
    uncertainty = spread(*task.pairs.with_doubt())
    is_seen = adjusted <= 1 - confidence
    return Difference(
        questions=len(task.pairs.differences),
        first=task.first,
        second=task.second,
        difference=task.pairs.mean,
        interval=difference_interval(task.pairs, confidence),
        probability=test.either,
        adjusted=adjusted,
        detectable=detectable(uncertainty.error, uncertainty.freedom, level),
        verdict=_verdict(is_seen, task.pairs.mean),
    )


def _overall(tasks: Mapping[str, PairedTask], confidence: float, draws: int) -> Difference:
    found = overall_estimate(tasks, confidence, draws)
    first, second = centered_means(tasks)
    return Difference(
        questions=sum(len(task.pairs.differences) for task in tasks.values()),
        first=first,
        second=second,
        difference=second - first,
        interval=found.interval,
        probability=found.probability,
        adjusted=found.probability,
        detectable=detectable(found.error, found.freedom, confidence),
        verdict=_verdict(0 not in found.interval, second - first),
    )


def _verdict(is_seen: bool, difference: float) -> Verdict:
    if not is_seen or difference == 0:
        return "cannot tell"
    return "better" if difference > 0 else "worse"


def _pair(first: Sequence[Sequence[Example]], second: Sequence[Sequence[Example]]) -> PairedTask:
    ours = np.array([sum(answer.right for answer in each) / len(each) for each in first])
    theirs = np.array([sum(answer.right for answer in each) / len(each) for each in second])
    unit = int(np.lcm.reduce([len(each) for each in (*first, *second)]))
    baseline = chance([example for each in first for example in each])
    pairs = Pairs(theirs - ours, clusters(first), unit)
    return PairedTask(pairs, float(ours.mean()), float(theirs.mean()), baseline)


def _check_rules(first: Answers, second: Answers) -> None:
    for name in dict.fromkeys([*first.rules, *second.rules]):
        ours, theirs = first.rules.get(name), second.rules.get(name)
        if ours != theirs:
            raise NotComparable(
                f"The rules of the evaluations differ: `{name}` is {_shown(ours)} for {first.name} and "
                f"{_shown(theirs)} for {second.name}.",
                hint="Evaluate one of the models again, with the settings of the other.",
            )


def _check_questions(task: str, questions: Sequence[tuple[Example, Example]], first: Answers, second: Answers) -> None:
    for what, differing in (
        ("kind", [one.question for one, other in questions if one.kind != other.kind]),
        ("prompt", [one.question for one, other in questions if one.prompt_sha256 != other.prompt_sha256]),
        ("right answer", [one.question for one, other in questions if one.gold != other.gold]),
    ):
        if differing:
            some = ", ".join(f"`{each}`" for each in differing[:SHOWN]) + (", …" if len(differing) > SHOWN else "")
            raise NotComparable(
                f"The questions of `{task}` differ between {first.name} and {second.name}: {len(differing):,} of "
                f"{len(questions):,} have another {what} ({some}).",
                hint="The form of the prompts or the questions changed in between: evaluate both in the same way.",
            )


def _shown(value: Any) -> str:
    return "not set" if value is None else f"`{value}`"


def _names(tasks: Mapping[str, Any]) -> str:
    return ", ".join(f"`{each}`" for each in tasks) or "nothing"
