"""Scaling laws with known parameters are found again; intervals cover them as often as they claim."""

from __future__ import annotations

import numpy as np
import pytest

from nanochat.errors import NotComparable
from nanochat.experiments.compute_multiplier import compute_multiplier
from nanochat.experiments.iso_flop import best_sizes, budgets, frontier
from nanochat.experiments.scaling_law import Point, fit_law, predict_largest

FLOPS = np.geomspace(1e15, 1e19, 8)


def over_compute(flops: np.ndarray, noise: float = 0.0, seed: int = 0, multiplier: float = 1.0) -> list[Point]:
    """Runs whose loss is 0.7 + 2.1 (FLOPs / 1e15)^-0.155, times noise."""
    factors = np.exp(noise * np.random.default_rng(seed).standard_normal(len(flops)))
    losses = (0.7 + 2.1 * (multiplier * flops / 1e15) ** -0.155) * factors
    return [
        Point(float(c), float(c**0.5), float(c**0.5 / 6), float(loss), f"run {i}")
        for i, (c, loss) in enumerate(zip(flops, losses, strict=True))
    ]


def over_sizes_and_tokens(pairs: list[tuple[float, float]]) -> list[Point]:
    """Hoffmann et al.'s law: 1.69 + 406.4 N^-0.34 + 410.7 D^-0.28."""
    return [Point(6 * n * d, n, d, 1.69 + 406.4 * n**-0.34 + 410.7 * d**-0.28) for n, d in pairs]


@pytest.mark.parametrize("runs", [5, 8])
def test_a_law_without_noise_is_found_to_a_thousandth(runs: int) -> None:
    law = fit_law(over_compute(np.geomspace(1e15, 1e19, runs)), draws=20)
    (term,) = law.terms
    assert term.exponent == pytest.approx(0.155, abs=1e-3)
    assert law.irreducible == pytest.approx(0.7, abs=1e-3)
    assert law.at({"flops": 1e20}) == pytest.approx(0.7 + 2.1 * 1e5**-0.155, rel=1e-3)


def test_the_law_of_parameters_and_tokens_is_found_to_a_thousandth() -> None:
    pairs = [(n, n * ratio) for n in (1e7, 3e7, 1e8, 3e8, 1e9) for ratio in (5, 20, 80)]
    law = fit_law(over_sizes_and_tokens(pairs), ("parameters", "tokens"), draws=20)
    assert [term.exponent for term in law.terms] == pytest.approx([0.34, 0.28], abs=1e-3)
    assert law.irreducible == pytest.approx(1.69, abs=1e-3)
    assert [term.scale for term in law.terms] == pytest.approx([406.4, 410.7], rel=0.02)


def test_one_outlier_does_not_move_the_law() -> None:
    points = over_compute(np.geomspace(1e15, 1e19, 12), noise=0.001)
    points[3] = Point(points[3].flops, 1e7, 1e8, points[3].loss * 1.3)
    assert fit_law(points, draws=20).terms[0].exponent == pytest.approx(0.155, abs=0.02)


def test_intervals_cover_the_truth_as_often_as_they_claim() -> None:
    """60 of the 200 cases: `python -m tests.experiments.test_scaling_law` counts all of them."""
    exponents, means = covered(60)
    assert 0.80 <= exponents <= 0.99
    assert 0.80 <= means <= 0.99


def covered(cases: int, runs: int = 8, noise: float = 0.01, draws: int = 200) -> tuple[float, float]:
    """Share of 90% intervals that contain the exponent, and of bands that contain the loss at ten times the compute."""
    counts = np.zeros(2)
    for seed in range(cases):
        law = fit_law(over_compute(np.geomspace(1e15, 1e19, runs), noise, seed), draws=draws, seed=seed)
        counts += (
            0.155 in law.exponent_interval("flops", 0.9),
            0.7 + 2.1 * 1e5**-0.155 in law.band({"flops": 1e20}, 0.9),
        )
    return counts[0] / cases, counts[1] / cases


def test_the_largest_run_is_inside_its_band_unless_it_is_off_the_law() -> None:
    points = over_compute(FLOPS, noise=0.003)
    found = predict_largest(points)
    assert found.name == "run 7"
    assert found.is_inside
    assert found.interval.high - found.interval.low < 0.1 * found.predicted
    points[-1] = Point(points[-1].flops, 1e9, 1e9, points[-1].loss * 1.15)
    assert not predict_largest(points).is_inside


@pytest.mark.parametrize(
    ("points", "axes", "problem"),
    [
        (over_compute(FLOPS[:4]), ("flops",), "five|5 runs or more, and there are 4"),
        (over_compute(np.repeat(FLOPS[:3], 2)), ("flops",), "four different amounts"),
        (over_compute(FLOPS), ("parameters", "tokens"), "more than one ratio"),
    ],
)
def test_too_few_runs_are_refused_in_one_sentence(points: list[Point], axes: tuple, problem: str) -> None:
    with pytest.raises(NotComparable, match=problem) as refusal:
        fit_law(points, axes)
    assert refusal.value.message.count(".") == 1


def test_the_compute_multiplier_of_a_better_recipe() -> None:
    plain, better = over_compute(FLOPS), over_compute(FLOPS * 1.1, multiplier=1.5)
    exact = compute_multiplier(plain, better, draws=20)
    assert exact.value == pytest.approx(1.5, rel=1e-3)
    assert not exact.is_extrapolated
    noisy = compute_multiplier(over_compute(FLOPS, 0.003, 1), over_compute(FLOPS * 1.1, 0.003, 2, 1.5), draws=200)
    assert 1.5 in noisy.interval
    assert 1.0 not in noisy.interval
    same = compute_multiplier(over_compute(FLOPS, 0.003, 3), over_compute(FLOPS * 1.1, 0.003, 4), draws=200)
    assert 1.0 in same.interval
    with pytest.raises(NotComparable, match="5 runs or more"):
        compute_multiplier(plain[:4], better)


def test_the_best_size_of_each_budget() -> None:
    """Analytic optimum of Hoffmann's law: N ∝ FLOPs^(0.28 / 0.62), found to the error of a parabola."""
    growth = 0.28 / 0.62
    best = {c: (0.34 * 406.4 / (0.28 * 410.7)) ** (1 / 0.62) * (c / 6) ** growth for c in (1e18, 1e19, 1e20)}
    pairs = [(n * f, c / (6 * n * f)) for c, n in best.items() for f in (0.4, 0.63, 1.0, 1.6, 2.5)]
    found = budgets(over_sizes_and_tokens(pairs))
    assert [each.parameters for each in found] == pytest.approx(list(best.values()), rel=0.05)
    law = best_sizes(found)
    assert law
    assert law.exponent == pytest.approx(growth, abs=0.005)
    outside = budgets(over_sizes_and_tokens([(n, 1e18 / (6 * n)) for n in (1e6, 2e6, 4e6)]))
    assert (outside[0].parameters, outside[0].problem) == (None, "the best size is outside of these: add larger models")


if __name__ == "__main__":
    for runs, noise in ((5, 0.005), (6, 0.01), (8, 0.003), (8, 0.01), (15, 0.02)):
        print(runs, "runs, noise", noise, ": exponent and band covered in", covered(200, runs, noise, 400))


def test_a_lucky_seed_does_not_make_the_best_size() -> None:
    points = [
        Point(1e12, size, 1000, loss, f"{size} {loss}")
        for size, losses in ((1_000, (1.00, 1.30)), (2_000, (1.10, 1.12)), (4_000, (1.20, 1.21)))
        for loss in losses
    ]
    assert [point.loss for point in frontier(points)] == [1.10, 1.12]
