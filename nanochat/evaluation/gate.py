"""Whether a candidate may replace the model in use: by bounds of the paired difference, not by its bare value.

A candidate passes unless

- it is shown to gain less than required: the upper bound of the gain is below `least_gain`,
- a larger loss than the accepted one cannot be excluded: the lower bound is below `least_gain - margin`,
- its score is below `least_score`, or,
- if requested, it is shown to be worse on one of the tasks.

With enough questions, the margin decides nothing; with too few, nothing passes. `docs/evaluation.md` has numbers.
"""

import math
from dataclasses import dataclass

from nanochat.config.evaluation import GateConfig
from nanochat.evaluation.comparison import Answers, PairedTask, centered_means, overall_estimate, paired_tasks
from nanochat.evaluation.distributions import t_quantile
from nanochat.evaluation.paired import exact_test, holm
from nanochat.evaluation.statistics import DRAWS, Estimate


@dataclass(frozen=True)
class Decision:
    """The result of a gate, with what would have been needed."""

    passes: bool
    reason: str
    """One sentence."""
    needed: str
    """What would have been needed, or what the candidate had to reach."""
    score: float
    """Mean centered accuracy of the candidate."""
    score_in_use: float | None
    lower_bound: float | None = None
    """One-sided, of the gain."""
    upper_bound: float | None = None
    worse_tasks: tuple[str, ...] = ()
    """Tasks on which the candidate is shown to be worse."""


def decide(candidate: Answers, in_use: Answers, config: GateConfig, draws: int = DRAWS) -> Decision:
    """Compares a candidate with the model in use, on the same questions. Raises `NotComparable`."""
    return decide_by_bounds(paired_tasks(in_use, candidate)[0], config, draws)


def decide_by_bounds(tasks: dict[str, PairedTask], config: GateConfig, draws: int = DRAWS) -> Decision:
    """The same, from the pairs of answers: those of the candidate are the second ones."""
    score_in_use, score = centered_means(tasks)
    gain, doubt = score - score_in_use, 1 - config.confidence
    lower = overall_estimate(tasks, 1 - 2 * doubt, draws)
    upper = overall_estimate(tasks, 1 - doubt, draws).interval.high
    worse = _worse_tasks(tasks, doubt)
    low, least = lower.interval.low, config.least_gain - config.margin
    sure = f"with {config.confidence:.0%} confidence"
    if score < config.least_score:
        passes, reason = False, f"the score is {score:.4f}, required {config.least_score:.4f}"
    elif upper < config.least_gain:
        passes, reason = False, f"the gain is {gain:+.4f} and at most {upper:+.4f}, required {config.least_gain:+.4f}"
    elif low < least:
        passes, reason = False, f"the gain is {gain:+.4f}, but {sure} only at least {low:+.4f}, required {least:+.4f}"
    elif config.per_task and worse:
        passes, reason = False, f"it is worse on {', '.join(worse)}"
    else:
        passes, reason = True, f"the gain is {gain:+.4f}, {sure} at least {low:+.4f}, required {least:+.4f}"
    needed = _needed(
        tasks,
        gain,
        max(least - low, config.least_gain - upper, config.least_score - score),
        least,
        config.confidence,
        lower,
    )
    return Decision(passes, reason, needed, score, score_in_use, low, upper, tuple(worse) if config.per_task else ())


def decide_by_score(score: float, score_in_use: float | None, config: GateConfig, why: str) -> Decision:
    """By the bare scores, for evaluations whose examples are not stored, and for the first model; `why` names which."""
    least = config.least_score if score_in_use is None else max(config.least_score, score_in_use + config.least_gain)
    passes = score >= least
    reason = f"the score is {score:.4f}, required {least:.4f} ({why})"
    return Decision(passes, reason, f"A score of {least:.4f}.", score, score_in_use)


def _worse_tasks(tasks: dict[str, PairedTask], doubt: float) -> list[str]:
    adjusted = holm([exact_test(task.pairs).worse for task in tasks.values()])
    return [name for name, probability in zip(tasks, adjusted, strict=True) if probability <= doubt]


def _needed(
    tasks: dict[str, PairedTask], gain: float, missing: float, least: float, confidence: float, found: Estimate
) -> str:
    """The gain that would have sufficed with these questions, and the questions that would have sufficed for it."""
    questions = sum(len(task.pairs.differences) for task in tasks.values())
    sentence = f"With these {questions:,} questions, a gain of {gain + missing:+.4f} suffices."
    if gain > least > found.interval.low:
        factor = (t_quantile(confidence, found.freedom) * found.error / (gain - least)) ** 2
        sentence += f" The measured gain suffices with about {math.ceil(questions * factor):,} questions."
    return sentence
