"""Noise between seeds, verdicts between recipes, and how many seeds are missing."""

from __future__ import annotations

import numpy as np
import pytest

from nanochat.errors import NotComparable
from nanochat.experiments.seeds import compare_seeds, more_seeds, noise_floor


def test_the_noise_floor_is_pooled_over_rungs() -> None:
    found = noise_floor({"d2": [1.0, 1.2], "d4": [0.5, 0.5, 0.8], "d6": [0.3]})
    assert found
    assert found.freedom == 3
    assert found.deviation == pytest.approx(np.sqrt((0.02 + 0.06) / 3))
    assert noise_floor({"d2": [1.0], "d4": [0.5]}) is None


def test_a_large_difference_is_seen_and_has_its_direction() -> None:
    plain, changed = {"": [1.000, 1.002, 0.998]}, {"": [0.950, 0.953, 0.949]}
    found = compare_seeds(plain, changed)
    assert (found.verdict, found.more_seeds) == ("better", 0)
    assert found.difference == pytest.approx(-0.0493, abs=1e-4)
    assert -0.0493 in found.interval
    assert 0 not in found.interval
    assert compare_seeds(plain, changed, lower_is_better=False).verdict == "worse"


def test_a_small_difference_names_the_seeds_that_are_missing() -> None:
    found = compare_seeds({"": [1.000, 1.010, 0.990]}, {"": [0.995, 1.006, 0.984]})
    assert found.verdict == "cannot tell"
    assert found.more_seeds
    seeds = 3 + found.more_seeds
    assert _seen_share(found.difference, 0.0105, seeds) > 0.7
    assert _seen_share(found.difference, 0.0105, seeds // 3) < 0.7
    assert compare_seeds({"": [1.0, 1.01]}, {"": [1.01, 1.0]}).more_seeds is None


def _seen_share(difference: float, deviation: float, seeds: int) -> float:
    """How often two recipes with this true difference are distinguished."""
    drawn = np.random.default_rng(0).normal(0, deviation, (200, 2, seeds))
    return float(np.mean([compare_seeds({"": a}, {"": b + difference}).verdict != "cannot tell" for a, b in drawn]))


def test_equal_recipes_are_distinguished_as_rarely_as_the_confidence_claims() -> None:
    drawn = np.random.default_rng(1).normal(1, 0.01, (400, 2, 3))
    found = [compare_seeds({"": a}, {"": b}, confidence=0.9).verdict for a, b in drawn]
    assert 0.04 < np.mean([verdict != "cannot tell" for verdict in found]) < 0.16


def test_only_common_rungs_count() -> None:
    found = compare_seeds({"d2": [1.0, 1.01], "d4": [0.8, 0.81]}, {"d2": [0.9, 0.91], "d6": [0.1, 0.1]})
    assert found.rungs == ("d2",)
    assert found.difference == pytest.approx(-0.1)


@pytest.mark.parametrize(
    ("first", "second", "problem"),
    [
        ({"": [1.0]}, {"": [0.9]}, "one seed"),
        ({"d2": [1.0, 1.1]}, {"d4": [0.9, 0.8]}, "no finished run of the same size"),
        ({"": [1.0, 1.1]}, {"": []}, "no finished run of the same size"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_sentence(first: dict, second: dict, problem: str) -> None:
    with pytest.raises(NotComparable, match=problem):
        compare_seeds(first, second)


def test_more_seeds_grow_with_the_square_of_the_noise() -> None:
    few, many = more_seeds(0.01, 0.01, 0), more_seeds(0.01, 0.03, 0)
    assert few == 17  # 2 (t quantiles of 0.975 and 0.8)² ≈ 16, and one for the unknown noise
    assert many
    assert 8 < many / few < 9.2
    assert more_seeds(1e-6, 0.01, 3) is None
