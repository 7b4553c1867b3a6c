"""Noise between training seeds, differences between recipes, and how many more runs would show a difference.

This noise is that of training: another seed gives another model. It is not the noise of the questions of an evaluation,
which `nanochat.evaluation.paired` describes; the two are not mixed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nanochat.errors import NotComparable
from nanochat.evaluation.distributions import t_quantile
from nanochat.evaluation.paired import POWER, detectable
from nanochat.evaluation.statistics import CONFIDENCE, Interval

MOST_SEEDS = 1000
Verdict = Literal["better", "worse", "cannot tell"]

Results = Mapping[str, Sequence[float]]
"""What a recipe reached: rung (depth, compute; one name if there is no ladder) → the values of its seeds."""


@dataclass(frozen=True)
class Noise:
    """The spread of a recipe between seeds."""

    deviation: float
    """Standard deviation."""
    freedom: int
    """Runs minus rungs."""


def noise_floor(results: Results) -> Noise | None:
    """Standard deviation between seeds, pooled over rungs; None if no rung has two seeds."""
    several = [np.asarray(values, np.float64) for values in results.values() if len(values) > 1]
    freedom = sum(len(values) - 1 for values in several)
    if not freedom:
        return None
    squares = math.fsum(float(((values - values.mean()) ** 2).sum()) for values in several)
    return Noise(math.sqrt(squares / freedom), freedom)


@dataclass(frozen=True)
class SeedDifference:
    """The second recipe against the first one, over the rungs that both have."""

    first: float
    """Mean over rungs of the first recipe's mean over seeds."""
    second: float
    difference: float
    interval: Interval
    verdict: Verdict
    detectable: float
    """Smallest true difference that is seen with a probability of 0.8."""
    more_seeds: int | None
    """Further seeds of each recipe with which the measured difference would be seen; 0 if it is seen, None if more than
    a thousand."""
    rungs: tuple[str, ...]


def compare_seeds(
    first: Results, second: Results, *, lower_is_better: bool = True, confidence: float = CONFIDENCE
) -> SeedDifference:
    """Compares two recipes by Welch's test (1947), with the noise of each recipe pooled over its rungs.

    A recipe with one seed at each rung is taken to have the noise of the other one. Raises `NotComparable` if the
    recipes have no rung in common, or if neither has two seeds.
    """
    rungs = tuple(rung for rung in first if len(first[rung]) and len(second.get(rung, ())))
    if not rungs:
        raise NotComparable("The recipes have no finished run of the same size in common.")
    ours, theirs = noise_floor(first), noise_floor(second)
    of_first, of_second = ours or theirs, theirs or ours
    if of_first is None or of_second is None:
        raise NotComparable(
            "There is one seed of each run, so the noise between seeds is unknown.", hint="Run two or more seeds."
        )
    noises = (of_first, of_second)
    means = [[float(np.mean(results[rung])) for rung in rungs] for results in (first, second)]
    parts = [
        noise.deviation**2 * math.fsum(1 / len(results[rung]) for rung in rungs) / len(rungs) ** 2
        for noise, results in zip(noises, (first, second), strict=True)
    ]
    error = math.sqrt(math.fsum(parts))
    freedom = _freedom(parts, noises if ours and theirs else noises[:1])
    one, other = float(np.mean(means[0])), float(np.mean(means[1]))
    half = t_quantile((1 + confidence) / 2, freedom) * error
    interval = Interval(other - one - half, other - one + half)
    verdict: Verdict = "cannot tell"
    if 0 not in interval:
        verdict = "better" if (other < one) == lower_is_better else "worse"
    seeds = min(len(results[rung]) for results in (first, second) for rung in rungs)
    pooled = math.sqrt((of_first.deviation**2 + of_second.deviation**2) / 2)
    more = 0 if verdict != "cannot tell" else more_seeds(other - one, pooled, seeds, len(rungs), confidence)
    return SeedDifference(
        one, other, other - one, interval, verdict, detectable(error, freedom, confidence), more, rungs
    )


def more_seeds(
    difference: float,
    deviation: float,
    seeds: int,
    rungs: int = 1,
    confidence: float = CONFIDENCE,
    power: float = POWER,
) -> int | None:
    """Further seeds of each of two recipes with which a difference would be seen with this power, at equal noise.

    None if it would take more than a thousand seeds.
    """
    least = detectable(deviation * math.sqrt(2 / rungs), math.inf, confidence, power)  # for one seed of known noise
    if least >= abs(difference) * math.sqrt(MOST_SEEDS):
        return None
    for count in range(max(2, seeds + 1, math.floor((least / difference) ** 2)), MOST_SEEDS + 1):
        error = deviation * math.sqrt(2 / (count * rungs))
        if detectable(error, 2 * rungs * (count - 1), confidence, power) <= abs(difference):
            return count - seeds
    return None


def _freedom(parts: Sequence[float], noises: Sequence[Noise | None]) -> float:
    """Degrees of freedom of Welch and Satterthwaite; a shared estimate of the noise has its own."""
    known = [noise for noise in noises if noise]
    if len(known) == 1:
        return float(known[0].freedom)
    total = math.fsum(parts)
    if total == 0:
        return float(min(noise.freedom for noise in known))
    return total**2 / math.fsum(part**2 / noise.freedom for part, noise in zip(parts, known, strict=True))
