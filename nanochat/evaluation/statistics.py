"""Error bars: intervals of an accuracy, of a mean over tasks, and of pass@k.

A `Sample` is one task's questions. Questions that share material (a passage, the two halves of a schema) are in one
cluster and count as fewer independent ones; so are several answers to one question. All intervals are two-sided and
seeded; the same input gives the same bytes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanochat.evaluation.distributions import normal_quantile, normal_tail, t_quantile, t_tail

CONFIDENCE = 0.95
DRAWS = 10_000
"""Of a bootstrap: the ends of the interval vary by 1% of its width with another seed."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """The two ends of a confidence interval."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Sample:
    """The questions of one task; arrays of one length."""

    values: Floats
    """Value of each question: the share of its answers that are right."""
    clusters: NDArray[np.int64]
    """Number of its cluster, from 0, without gaps."""
    answers: int
    """Answers to all questions together."""

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    def with_doubt(self) -> "Sample":
        """If all values are equal: a question of each cluster, and two more, one right and one wrong; else the same.

        Without them, a model that answers none of a few questions would be known to answer none of all others.
        """
        if np.ptp(self.values) > 0:
            return self
        count = int(self.clusters.max()) + 1
        values = np.append(np.full(count, self.values[0]), [0.0, 1.0])
        return Sample(values, np.arange(count + 2), count + 2)

    def cluster_sums(self) -> tuple[Floats, Floats]:
        """Number of questions, and sum of their values, of each cluster."""
        sizes = np.bincount(self.clusters).astype(np.float64)
        return sizes, np.bincount(self.clusters, self.values).astype(np.float64)


def wilson(share: float, count: float, confidence: float = CONFIDENCE, deviate: float | None = None) -> Interval:
    """Wilson's score interval of a share among `count` independent answers (Wilson 1927; Brown, Cai, DasGupta 2001).

    `count` may be an effective one. `deviate` replaces the quantile of the normal distribution.
    """
    z = t_quantile((1 + confidence) / 2, math.inf) if deviate is None else deviate
    scale = 1 + z * z / count
    middle = (share + z * z / (2 * count)) / scale
    half = z / scale * math.sqrt(max(0.0, share * (1 - share) / count + z * z / (4 * count * count)))
    return Interval(0.0 if share <= 0 else max(0.0, middle - half), 1.0 if share >= 1 else min(1.0, middle + half))


@dataclass(frozen=True)
class Spread:
    """The uncertainty of a mean: its standard error, and the degrees of freedom of that error's estimate."""

    error: float
    freedom: float
    correlation: float = 0.0
    """Of the questions of a cluster, at least 0."""
    size: float = 1.0
    """Questions of a cluster, weighted by its size."""


def spread(values: Floats, clusters: NDArray[np.int64]) -> Spread:
    """Cluster-robust standard error of a mean, and its degrees of freedom.

    The error is CR2 for a mean (Bell and McCaffrey 2002): each cluster's sum of deviations, squared, over one minus its
    share of the questions. The degrees of freedom are those of clusters of unequal size, with the correlation inside
    clusters estimated by Kish's design effect (after Carter, Schnepel and Steigerwald 2017). One cluster: an infinite
    error.
    """
    count = len(values)
    sizes = np.bincount(clusters).astype(np.float64)
    if len(sizes) < 2:
        return Spread(math.inf, 1.0)
    deviations = np.bincount(clusters, values - values.mean())
    variance = float((deviations**2 / (1 - sizes / count)).sum()) / count**2
    independent = float(values.var(ddof=1)) / count
    size = float((sizes**2).sum()) / count
    correlation = min(1.0, max(0.0, (variance / independent - 1) / (size - 1))) if size > 1 and independent else 0.0
    shares = sizes * (1 + (sizes - 1) * correlation)
    effective = float(shares.sum() ** 2 / (shares**2).sum())
    return Spread(math.sqrt(variance), max(1.0, effective - 1), correlation, size)


def accuracy_interval(sample: Sample, confidence: float = CONFIDENCE) -> Interval:
    """Interval of a mean of values between 0 and 1: Wilson's, with the effective number of answers.

    Independent answers: plain Wilson. Else the effective number is `p (1 - p) / error²` (Korn and Graubard 1998; Dean
    and Pagano 2015), at most the number of answers. If it is less, the quantile is Student's. Wilson's formula covers
    the error of p itself, so the degrees of freedom are those of what is left to estimate: the design effect. If all
    values are 0, or all are 1, their correlation is unknown, and each cluster counts as one answer.
    """
    share, count = sample.mean, len(sample.values)
    sizes = np.bincount(sample.clusters)
    if len(sizes) == count == sample.answers:
        return wilson(share, count, confidence)
    if len(sizes) < 2:
        return wilson(share, 1, confidence)
    if share in (0, 1):
        return wilson(share, len(sizes), confidence)
    found = spread(sample.values, sample.clusters)
    if found.error**2 * sample.answers <= share * (1 - share):
        return wilson(share, sample.answers, confidence)
    squares = np.bincount(sample.clusters, sample.values - share) ** 2
    differing = float(squares.sum() ** 2 / (squares**2).sum())
    deviate = t_quantile((1 + confidence) / 2, _freedom_of_design_effect(found, differing))
    return wilson(share, share * (1 - share) / found.error**2, confidence, deviate)


def _freedom_of_design_effect(found: Spread, differing: float) -> float:
    """Degrees of freedom of the estimated design effect 1 + (m - 1) r, for clusters of m questions.

    The correlation r of k equal clusters has the variance 2 (1 - r)² (1 + (m - 1) r)² / (m (m - 1) k) (Fisher 1925;
    Donner 1986). Two over the squared coefficient of variation of the effect is then k m / ((m - 1) (1 - r)²): small
    clusters have a small effect, which is known better than the k - 1 degrees of freedom of the error would say. Near
    0 and 1 few clusters differ from the mean, and the limit by their number is fitted to simulations
    (`benchmarks/intervals.py`).
    """
    if found.size <= 1:  # several answers to each question
        return max(1.0, min(found.freedom, 2.5 * differing - 1))
    of_size = found.size / (found.size - 1)
    most = (2.5 * differing - 1) * of_size**2
    return max(1.0, min(found.freedom * of_size / max(1e-6, (1 - found.correlation) ** 2), most))


def pass_at_k(right: Sequence[int], answers: Sequence[int], k: int) -> Floats:
    """Unbiased pass@k of each question: 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, arXiv:2107.03374).

    Raises `ValueError` for a question with fewer than k answers.
    """
    if k < 1 or min(answers) < k:
        raise ValueError(f"pass@{k} takes questions with at least {max(k, 1)} answers, got one with {min(answers)}")
    return np.array([1 - math.comb(n - c, k) / math.comb(n, k) for c, n in zip(right, answers, strict=True)])


def bootstrap(samples: Sequence[Sample], draws: int, seed: int) -> Floats:
    """Means of resampled tasks, (tasks, draws): in each task, clusters are drawn with replacement.

    One cluster fewer than there are is drawn, which makes the variance unbiased for small tasks (Rao and Wu 1988;
    McCarthy and Snowden 1985). Equal clusters are drawn together, by a multinomial distribution. A task with one
    cluster keeps its mean.
    """
    generator = np.random.default_rng(seed)
    means = np.empty((len(samples), draws))
    for row, sample in enumerate(samples):
        sizes, sums = sample.cluster_sums()
        kinds, counts = np.unique(sizes + 1j * sums, return_counts=True)  # pairs, which NumPy sorts as complex numbers
        if len(sizes) < 2:
            means[row] = sample.mean
            continue
        drawn = generator.multinomial(len(sizes) - 1, counts / counts.sum(), size=draws)
        means[row] = (drawn @ kinds.imag) / (drawn @ kinds.real)
    return means


@dataclass(frozen=True)
class Estimate:
    """A number with its interval."""

    value: float
    interval: Interval
    error: float
    """Standard error."""
    freedom: float
    """Degrees of freedom of the error."""
    probability: float
    """Two-sided probability of a value at least as far from 0, if the true one is 0."""


def weighted_mean(
    samples: Sequence[Sample],
    weights: Sequence[float],
    offset: float = 0.0,
    confidence: float = CONFIDENCE,
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """`offset + Σ weight * mean` over tasks, with its interval by a bootstrap stratified by task.

    The tasks are fixed: the interval is about other questions, not about other tasks. The percentiles are those of
    Student's t (Hesterberg 2015, arXiv:1411.5279, section 5.3), with the degrees of freedom of Welch and Satterthwaite.
    The probability is the one at which the interval would end at 0. A task whose answers are all right or all wrong
    enters the interval with two more questions (`with_doubt`).
    """
    drawn = [sample.with_doubt() for sample in samples]
    found = [spread(sample.values, sample.clusters) for sample in drawn]
    parts = [(weight * each.error) ** 2 for weight, each in zip(weights, found, strict=True)]
    value = offset + math.fsum(weight * sample.mean for weight, sample in zip(weights, samples, strict=True))
    error = math.sqrt(math.fsum(parts))
    if error == 0 or math.isinf(error):
        interval = Interval(value - error, value + error)
        return Estimate(value, interval, error, math.inf, 1.0 if error or value == 0 else 0.0)
    freedom = error**4 / math.fsum(part**2 / each.freedom for part, each in zip(parts, found, strict=True))
    means = offset + np.asarray(weights) @ bootstrap(drawn, draws, seed)
    tail = 1 - normal_tail(t_quantile((1 - confidence) / 2, freedom))
    low, high = np.quantile(means, [tail, 1 - tail])
    beyond = (min(np.count_nonzero(means <= 0), np.count_nonzero(means >= 0)) + 0.5) / (draws + 1)
    probability = min(1.0, 2 * t_tail(-normal_quantile(min(0.5, beyond)), freedom))
    interval = Interval(min(float(low), value), max(float(high), value))
    return Estimate(value, interval, error, freedom, probability)
