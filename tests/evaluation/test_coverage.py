"""A 95% interval contains the truth in about 95% of simulations; `benchmarks/intervals.py` has all situations."""

import numpy as np
import pytest

from benchmarks.intervals import (
    RANGES,
    Trial,
    clustered,
    coverage,
    exact_coverage,
    independent,
    means,
    paired,
    several_answers,
)
from benchmarks.intervals import Case as Situation
from nanochat.evaluation.statistics import Interval, wilson

SITUATIONS: dict[str, Trial] = {
    **{f"Wilson, {low}": independent(100, low, high) for low, high in RANGES},
    **{f"clustered, {low}": clustered("passages", 30, 0.2, low, high) for low, high in RANGES},
    "bootstrap over two small tasks": means(2, 30, 0.02, 0.6, 500),
    "bootstrap over five tasks": means(5, 100, 0.25, 0.35, 500),
    "bootstrap with passages": means(5, 30, 0.1, 0.6, 500, passages=True),
    "paired": paired(500, 0.2, 0.05),
    "pass@4": several_answers(100, 8, 4),
}


@pytest.mark.parametrize("correlation", [0.0, 0.2, 0.5, 0.8])
@pytest.mark.parametrize("size", [2, 3])
def test_ten_small_clusters_have_intervals_that_are_not_too_wide(size: int, correlation: float) -> None:
    """Exact, over all results; with the degrees of freedom of the error they had up to 99.5%. Counts make steps."""
    for low, high in RANGES:
        assert 0.93 <= exact_coverage(10, size, correlation, low, high) <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("name", SITUATIONS)
def test_the_truth_is_in_93_to_97_of_100_intervals(name: str) -> None:
    """Seeded; with 1,000 simulations, the share itself is known to 0.7 points."""
    assert 0.93 <= coverage(Situation("", name, SITUATIONS[name]), 1000) <= 0.97


def test_an_interval_that_ignores_clusters_would_be_noticed() -> None:
    """The check fails for plain Wilson on questions that share passages."""

    def naive(random: np.random.Generator) -> tuple[Interval, float]:
        truth = 0.25
        places = np.repeat(np.arange(30), 8)
        right = random.random(240) < random.beta(truth * 4, (1 - truth) * 4, 30)[places]
        return wilson(float(right.mean()), 240), truth

    assert coverage(Situation("", "naive", naive), 300) < 0.85
