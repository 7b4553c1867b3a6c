"""Simulated coverage of the intervals, and what the gate of `refresh` finds: `python -m benchmarks.intervals`.

A 95% interval should contain the truth in 93% to 97% of the simulations. Each simulation draws its own accuracy from a
range: at a single accuracy, the coverage of any interval for a count jumps (Brown, Cai and DasGupta 2001). Seeded.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanochat.config.evaluation import GateConfig
from nanochat.evaluation.comparison import PairedTask
from nanochat.evaluation.gate import decide_by_bounds
from nanochat.evaluation.paired import Pairs, difference_interval
from nanochat.evaluation.statistics import Interval, Sample, accuracy_interval, pass_at_k, weighted_mean

RANGES = ((0.01, 0.1), (0.2, 0.3), (0.45, 0.55), (0.9, 0.99))
LEAST, MOST = 0.93, 0.97
Trial = Callable[[np.random.Generator], tuple[Interval, float]]
"""One simulation: the interval, and the truth."""


@dataclass(frozen=True)
class Case:
    """One kind of interval, in one situation."""

    kind: str
    situation: str
    trial: Trial


def independent(count: int, low: float, high: float) -> Trial:
    def trial(random: np.random.Generator) -> tuple[Interval, float]:
        truth = random.uniform(low, high)
        right = (random.random(count) < truth).astype(np.float64)
        return accuracy_interval(Sample(right, np.arange(count), count)), truth

    return trial


def sizes(shape: str, clusters: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Questions of each cluster: all equal, as squad's passages, or as MMLU's subjects."""
    match shape:
        case "passages":
            return 1 + random.geometric(0.15, clusters)
        case "subjects":
            return 1 + np.round(np.exp(random.normal(4.5, 0.6, clusters))).astype(np.int64)
        case _:
            return np.full(clusters, int(shape))


def shares(mean: float, correlation: float, clusters: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Accuracies of clusters, whose answers are then correlated: a beta distribution."""
    if correlation == 0:
        return np.full(clusters, mean)
    rest = (1 - correlation) / correlation
    return random.beta(mean * rest, (1 - mean) * rest, clusters)


def clustered(shape: str, clusters: int, correlation: float, low: float, high: float) -> Trial:
    def trial(random: np.random.Generator) -> tuple[Interval, float]:
        truth = random.uniform(low, high)
        places = np.repeat(np.arange(clusters), sizes(shape, clusters, random))
        right = random.random(len(places)) < shares(truth, correlation, clusters, random)[places]
        return accuracy_interval(Sample(right.astype(np.float64), places, len(places))), truth

    return trial


def exact_coverage(clusters: int, size: int, correlation: float, low: float, high: float, points: int = 41) -> float:
    """Coverage for clusters of one small size without simulation: over all results that are possible.

    A result is the number of clusters with each number of right answers; its probability is multinomial, with those of
    the beta-binomial distribution. The mean is over accuracies from `low` to `high`.
    """
    results = list(compositions(clusters, size + 1))
    places = np.repeat(np.arange(clusters), size)
    intervals: list[Interval] = []
    for counts in results:
        right = np.repeat(np.arange(size + 1), counts)
        values = (np.tile(np.arange(size), clusters) < np.repeat(right, size)).astype(np.float64)
        intervals.append(accuracy_interval(Sample(values, places, len(places))))
    lows, highs = np.array([each.low for each in intervals]), np.array([each.high for each in intervals])
    counts = np.array(results)
    orders = np.array([math.lgamma(clusters + 1) - sum(math.lgamma(each + 1) for each in row) for row in results])
    found = 0.0
    for truth in np.linspace(low, high, points):
        likely = np.exp(orders + counts @ np.log(beta_binomial(size, float(truth), correlation)))
        found += float(likely[(lows <= truth) & (truth <= highs)].sum()) / points
    return found


def compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """All ways to write `total` as a sum of so many numbers from 0."""
    if parts == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in compositions(total - first, parts - 1):
            yield (first, *rest)


def beta_binomial(count: int, mean: float, correlation: float) -> NDArray[np.float64]:
    """Probabilities of 0 to `count` right answers in a cluster."""
    if correlation == 0:
        return np.array([math.comb(count, k) * mean**k * (1 - mean) ** (count - k) for k in range(count + 1)])
    rest = (1 - correlation) / correlation
    a, b = mean * rest, (1 - mean) * rest
    log = [
        math.lgamma(a + k) + math.lgamma(b + count - k) - math.lgamma(a + b + count)
        - math.lgamma(a) - math.lgamma(b) + math.lgamma(a + b)
        for k in range(count + 1)
    ]  # fmt: skip
    return np.array([math.comb(count, k) * math.exp(each) for k, each in enumerate(log)])


def means(tasks: int, count: int, low: float, high: float, draws: int, *, passages: bool = False) -> Trial:
    """Mean centered accuracy over tasks with different guesses."""

    def task(truth: float, random: np.random.Generator) -> Sample:
        places = np.repeat(np.arange(count), sizes("passages" if passages else "1", count, random))
        right = random.random(len(places)) < shares(truth, 0.2 * passages, count, random)[places]
        return Sample(right.astype(np.float64), places, len(places))

    def trial(random: np.random.Generator) -> tuple[Interval, float]:
        truths, guesses = random.uniform(low, high, tasks), random.choice([0, 0.25, 0.5], tasks)
        weights = 1 / (1 - guesses) / tasks
        samples = [task(truth, random) for truth in truths]
        seed = int(random.integers(1 << 31))
        found = weighted_mean(samples, list(weights), -float(weights @ guesses), draws=draws, seed=seed)
        return found.interval, float(weights @ (truths - guesses))

    return trial


def paired(count: int, disagreement: float, difference: float) -> Trial:
    def trial(random: np.random.Generator) -> tuple[Interval, float]:
        place = random.random(count)
        up = place < (disagreement + difference) / 2
        differences = np.where(up, 1.0, np.where(place < disagreement, -1.0, 0.0))
        return difference_interval(Pairs(differences, np.arange(count), 1)), difference

    return trial


def several_answers(questions: int, answers: int, k: int) -> Trial:
    """pass@k of questions of different difficulty; the truth is its mean over the distribution of difficulties."""
    ease = np.random.default_rng(0).beta(0.5, 1.5, 200_000)
    truth = float(np.mean(1 - (1 - ease) ** k))

    def trial(random: np.random.Generator) -> tuple[Interval, float]:
        right = random.binomial(answers, random.beta(0.5, 1.5, questions))
        values = pass_at_k(right.tolist(), [answers] * questions, k)
        return accuracy_interval(Sample(values, np.arange(questions), questions * (answers // k))), truth

    return trial


def cases(draws: int) -> Iterator[Case]:
    for count in (10, 30, 100, 1000):
        for low, high in RANGES:
            yield Case("independent (Wilson)", f"{count} questions, {low}–{high}", independent(count, low, high))
    for shape, clusters, correlations in (
        ("2", 50, (0.0, 0.2, 0.5)), ("5", 20, (0.0, 0.2, 0.5)), ("10", 20, (0.0, 0.2, 0.5)),
        ("passages", 30, (0.0, 0.2, 0.5)), ("passages", 100, (0.0, 0.2)), ("subjects", 57, (0.02, 0.1)),
    ):  # fmt: skip
        for correlation in correlations:
            for low, high in RANGES:
                situation = f"{clusters} clusters of {shape}, correlation {correlation}, {low}–{high}"
                yield Case("clustered", situation, clustered(shape, clusters, correlation, low, high))
    for tasks, count in ((2, 30), (2, 200), (5, 50), (5, 500), (22, 100), (22, 500)):
        for low, high in ((0.02, 0.6), (0.25, 0.35), (0.6, 0.98)):
            situation = f"{tasks} tasks of {count}, {low}–{high}"
            yield Case("mean over tasks (bootstrap)", situation, means(tasks, count, low, high, draws))
    for tasks, count in ((5, 30), (10, 100)):
        situation = f"{tasks} tasks of {count} passages, 0.1–0.6"
        yield Case("mean over tasks (bootstrap)", situation, means(tasks, count, 0.1, 0.6, draws, passages=True))
    for count, disagreement, difference in (
        (200, 0.1, 0.0), (200, 0.1, 0.05), (200, 0.3, 0.1), (1000, 0.1, 0.0), (1000, 0.3, 0.1)
    ):  # fmt: skip
        situation = f"{count} questions, {disagreement:.0%} disagreement, {difference:+.0%}"
        yield Case("paired difference", situation, paired(count, disagreement, difference))
    for questions, answers, k in ((50, 8, 1), (50, 8, 4), (164, 16, 1), (164, 16, 8)):
        situation = f"pass@{k} of {questions} questions, {answers} answers"
        yield Case("pass@k", situation, several_answers(questions, answers, k))


def coverage(case: Case, trials: int, seed: int = 0) -> float:
    """The share of simulations whose interval contains the truth."""
    random = np.random.default_rng([seed, *case.situation.encode()])
    hits = 0
    for _ in range(trials):
        interval, truth = case.trial(random)
        hits += truth in interval
    return hits / trials


def held_back(loss: float, questions: int, disagreement: float, trials: int, draws: int, seed: int = 0) -> float:
    """The share of simulations in which the gate holds a candidate back, over five tasks without a guess."""
    random = np.random.default_rng([seed, questions])
    held = 0
    for _ in range(trials):
        tasks: dict[str, PairedTask] = {}
        for task in range(5):
            place = random.random(questions // 5)
            up = place < (disagreement - loss) / 2
            pairs = Pairs(np.where(up, 1.0, np.where(place < disagreement, -1.0, 0.0)), np.arange(len(place)), 1)
            tasks[str(task)] = PairedTask(pairs, 0.5, 0.5 + pairs.mean, 0.0)
        held += not decide_by_bounds(tasks, GateConfig(), draws).passes
    return held / trials


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--draws", type=int, default=2000, help="of each bootstrap")
    parser.add_argument("--kind", default="", help="only this kind of interval, `exact`, or `gate`")
    given = parser.parse_args()
    found: dict[str, list[float]] = {}
    if given.kind in ("", "exact"):
        for clusters, size in ((5, 2), (10, 2), (20, 2), (10, 3), (10, 5)):
            for correlation in (0.0, 0.2, 0.5, 0.8):
                covered = [exact_coverage(clusters, size, correlation, low, high) for low, high in RANGES]
                shown = " ".join(f"{each:.1%}" for each in covered)
                print(f"exact: {clusters} clusters of {size}, correlation {correlation}, {shown}")
    for case in cases(given.draws):
        if given.kind and not case.kind.startswith(given.kind):
            continue
        covered = coverage(case, given.trials)
        found.setdefault(case.kind, []).append(covered)
        print(f"{case.kind:28} {case.situation:56} {covered:.1%}{'' if LEAST <= covered <= MOST else '  outside'}")
    for kind, covered in found.items():
        inside = sum(LEAST <= each <= MOST for each in covered)
        print(
            f"{kind:28} mean {np.mean(covered):.1%}, {min(covered):.1%} to {max(covered):.1%}, "
            f"{inside} of {len(covered)} situations between {LEAST:.0%} and {MOST:.0%}"
        )
    if given.kind in ("", "gate"):
        print("\ngate: questions, disagreement, held back with no loss, with a loss of 5 points")
        for questions, disagreement in ((250, 0.1), (500, 0.1), (750, 0.1), (500, 0.2), (1000, 0.2), (1250, 0.2)):
            rates = [held_back(loss, questions, disagreement, given.trials // 2, given.draws) for loss in (0.0, 0.05)]
            print(f"{questions:6,} {disagreement:6.0%} {rates[0]:10.1%} {rates[1]:10.1%}")


if __name__ == "__main__":
    main()
