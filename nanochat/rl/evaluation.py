"""Evaluation on held-out problems: pass@1 and pass@k with intervals, lengths, truncated answers, drift from the start.

The samples of every evaluation have the same random numbers, so that two evaluations can be compared by pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nanochat.evaluation.paired import Pairs, difference_interval
from nanochat.evaluation.statistics import Interval, Sample, accuracy_interval, pass_at_k
from nanochat.rl.rollouts import Rollout


@dataclass(frozen=True)
class EvaluatedProblem:
    """What an evaluation keeps of a held-out problem."""

    task: int
    question: str
    answer: str
    """The first answer."""
    right: int
    """Answers that are right, of all."""


@dataclass(frozen=True)
class RLEvaluation:
    """An evaluation after so many steps."""

    step: int
    samples: int
    """Answers to each problem."""
    pass_at_1: float
    interval: tuple[float, float]
    """Of pass@1; problems are independent, the answers to one are not."""
    pass_at: dict[str, tuple[float, tuple[float, float]]]
    """k → pass@k with its interval, for the powers of two up to `samples`."""
    by_task: dict[str, tuple[float, tuple[float, float]]]
    """Number of the task in the mixture → pass@1 with its interval."""
    mean_tokens: float
    truncated: float
    """Share of answers."""
    kl: float
    """Mean of log-probability minus that of the model at the start, over the tokens of some answers (nats)."""
    problems: list[EvaluatedProblem]

    @property
    def low(self) -> float:
        """The lower bound of pass@1, by which evaluations are ranked."""
        return self.interval[0]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def summarize(step: int, groups: Sequence[Sequence[Rollout]], kl: float) -> RLEvaluation:
    """The evaluation of judged answers, one group for each problem."""
    samples = len(groups[0])
    right = np.array([sum(_right(rollout) for rollout in group) for group in groups])
    tasks = np.array([group[0].prompt.problem.task for group in groups])
    powers = [1 << n for n in range(samples.bit_length()) if 1 << n <= samples]
    value, interval = _with_interval(right / samples, samples)
    rollouts = [rollout for group in groups for rollout in group]
    return RLEvaluation(
        step=step,
        samples=samples,
        pass_at_1=value,
        interval=interval,
        pass_at={str(k): _with_interval(pass_at_k(right.tolist(), [samples] * len(right), k), samples) for k in powers},
        by_task={str(task): _with_interval(right[tasks == task] / samples, samples) for task in np.unique(tasks)},
        mean_tokens=float(np.mean([len(rollout.ids) for rollout in rollouts])),
        truncated=float(np.mean([rollout.truncated for rollout in rollouts])),
        kl=kl,
        problems=[
            EvaluatedProblem(
                group[0].prompt.problem.task,
                group[0].prompt.problem.question["messages"][-1]["content"],
                group[0].written,
                int(count),
            )
            for group, count in zip(groups, right, strict=True)
        ],
    )


def _right(rollout: Rollout) -> bool:
    return rollout.reward is not None and rollout.reward.right and not rollout.truncated


def _with_interval(values: np.ndarray[Any, Any], samples: int) -> tuple[float, tuple[float, float]]:
    """The mean of the values of independent problems with several answers each, and its interval."""
    sample = Sample(values.astype(np.float64), np.arange(len(values)), len(values) * samples)
    found: Interval = accuracy_interval(sample)
    return sample.mean, (found.low, found.high)


def improvement(evaluations: Sequence[dict[str, Any]], kept_step: int) -> dict[str, float]:
    """What training gained on held-out problems, from the first evaluation to that of the weights that were kept.

    The difference is by pairs: the same problems, with the same random numbers.
    """
    by_step = {evaluation["step"]: evaluation for evaluation in evaluations}
    found: dict[str, float] = {"kept_step": kept_step}
    if kept_step in by_step:
        kept = by_step[kept_step]
        found |= {"validation_pass_at_1": kept["pass_at_1"], "validation_kl": kept["kl"]}
    if 0 in by_step and kept_step in by_step:
        gain, interval = paired_gain(by_step[0], by_step[kept_step])
        found |= {"start_pass_at_1": by_step[0]["pass_at_1"], "gain": gain, "gain_low": interval.low}
        found["gain_high"] = interval.high
    return found


def paired_gain(before: dict[str, Any], after: dict[str, Any], task: int | None = None) -> tuple[float, Interval]:
    """The gain in pass@1 between two evaluations of the same problems, of one task or all, with its interval."""
    pairs = [
        (old["right"] / before["samples"], new["right"] / after["samples"])
        for old, new in zip(before["problems"], after["problems"], strict=True)
        if task is None or old["task"] == task
    ]
    differences = np.array([new - old for old, new in pairs])
    found = Pairs(differences, np.arange(len(differences)), math.lcm(before["samples"], after["samples"]))
    return found.mean, difference_interval(found)
