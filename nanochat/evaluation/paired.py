"""Two models on the same questions: difference, exact test, correction for several tasks, what could have been seen.

The models are compared question by question (Miller 2024, arXiv:2411.00640, section 4.2): questions that are hard for
both do not enter the difference, so it is known better than each accuracy.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanochat.evaluation.distributions import t_quantile
from nanochat.evaluation.statistics import CONFIDENCE, Floats, Interval, spread

POWER = 0.8
"""Probability with which a difference of the detectable size is seen."""


@dataclass(frozen=True)
class Pairs:
    """The questions of one task that two models answered; arrays of one length."""

    differences: Floats
    """Value of the second model's answers to each question, minus that of the first model's."""
    clusters: NDArray[np.int64]
    """Number of each question's cluster, from 0, without gaps."""
    unit: int
    """Differences are multiples of 1 / unit: 1, if each question has one answer."""

    @property
    def mean(self) -> float:
        return float(self.differences.mean())

    def with_doubt(self) -> tuple[Floats, NDArray[np.int64]]:
        """Differences and clusters with two more questions, of which each model alone answers one.

        Without them, models that agree on all of a few questions would be known to be equal (Bonett and Price 2012).
        """
        last = int(self.clusters.max()) + 1
        return np.append(self.differences, [1.0, -1.0]), np.append(self.clusters, [last, last + 1])


def difference_interval(pairs: Pairs, confidence: float = CONFIDENCE) -> Interval:
    """Interval of the mean difference: that of Bonett and Price (2012), cluster-robust."""
    values, clusters = pairs.with_doubt()
    found = spread(values, clusters)
    half = t_quantile((1 + confidence) / 2, found.freedom) * found.error
    middle = float(values.mean())
    return Interval(max(-1.0, middle - half), min(1.0, middle + half))


def detectable(error: float, freedom: float, confidence: float = CONFIDENCE, power: float = POWER) -> float:
    """The smallest true difference that is seen with this power, given a standard error (Miller 2024, section 5)."""
    return (t_quantile((1 + confidence) / 2, freedom) + t_quantile(power, freedom)) * error


@dataclass(frozen=True)
class Test:
    """Exact probabilities, if the models are equally good, of a difference at least as large."""

    either: float
    """In either direction."""
    worse: float
    """In favour of the first model."""


def exact_test(pairs: Pairs) -> Test:
    """McNemar's exact test (1947), extended to clusters and to several answers.

    If the models are equal, each cluster's difference has either sign with the same probability. The distribution of
    their sum is computed exactly. For independent questions with one answer, it is the binomial one of McNemar's test.
    """
    units = np.rint(np.bincount(pairs.clusters, pairs.differences * pairs.unit)).astype(np.int64)
    sizes, counts = np.unique(np.abs(units[units != 0]), return_counts=True)
    if not len(sizes):
        return Test(1.0, 1.0)
    step = int(np.gcd.reduce(sizes))
    chances = np.ones(1)
    for size, count in zip(sizes // step, counts, strict=True):
        chances = _with_clusters(chances, int(size), int(count))
    total, seen = len(chances) - 1, int(units.sum()) // step
    sums = 2 * np.arange(total + 1) - total
    either = float(chances[np.abs(sums) >= abs(seen)].sum())
    return Test(min(1.0, either), min(1.0, float(chances[sums <= seen].sum())))


def _with_clusters(chances: Floats, size: int, count: int) -> Floats:
    """The distribution of the sum of positive sizes, with `count` more clusters of one size, each positive or not."""
    logs = [math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) for k in range(count + 1)]
    binomial = np.exp(np.array(logs) - count * math.log(2))
    more = np.zeros(len(chances) + size * count)
    for rest in range(min(size, len(chances))):
        part = np.convolve(chances[rest::size], binomial)
        more[rest::size][: len(part)] += part
    return more


def holm(probabilities: Sequence[float]) -> list[float]:
    """Probabilities adjusted for several tests (Holm 1979): the chance of one false finding among all is bounded."""
    order = sorted(range(len(probabilities)), key=lambda position: probabilities[position])
    adjusted, largest = [0.0] * len(probabilities), 0.0
    for rank, position in enumerate(order):
        largest = max(largest, min(1.0, (len(probabilities) - rank) * probabilities[position]))
        adjusted[position] = largest
    return adjusted
