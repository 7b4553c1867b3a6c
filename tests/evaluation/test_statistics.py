"""Error bars: intervals hold what they promise, and known values are met."""

import math
from itertools import product

import numpy as np
import pytest

from nanochat.evaluation.distributions import normal_quantile, t_quantile, t_tail
from nanochat.evaluation.statistics import (
    Sample,
    accuracy_interval,
    bootstrap,
    pass_at_k,
    spread,
    weighted_mean,
    wilson,
)


def independent(values: list[float]) -> Sample:
    return Sample(np.array(values, dtype=np.float64), np.arange(len(values)), len(values))


@pytest.mark.parametrize(
    ("probability", "freedom", "quantile"),
    [
        (0.975, 1, 12.7062047362),
        (0.975, 2, 4.30265272975),
        (0.975, 10, 2.22813885199),
        (0.975, 1000, 1.96233908082),
        (0.95, 3, 2.35336343480),
        (0.995, 4, 4.60409487142),
        (0.025, 10, -2.22813885199),
    ],
)
def test_quantiles_of_students_t_are_those_of_printed_tables(
    probability: float, freedom: float, quantile: float
) -> None:
    assert t_quantile(probability, freedom) == pytest.approx(quantile, rel=1e-9)
    assert t_tail(quantile, freedom) == pytest.approx(1 - probability, rel=1e-9)


def test_without_a_limit_to_its_freedom_students_t_is_normal() -> None:
    assert t_quantile(0.9, math.inf) == normal_quantile(0.9)
    assert t_quantile(0.9, 1e7) == pytest.approx(normal_quantile(0.9), rel=1e-6)


def test_wilson_is_what_the_literature_prints() -> None:
    """Newcombe 1998, table I: 81 of 263, and 0 of 20."""
    assert [round(end, 4) for end in (wilson(81 / 263, 263).low, wilson(81 / 263, 263).high)] == [0.2553, 0.3662]
    assert [round(end, 4) for end in (wilson(0, 20).low, wilson(0, 20).high)] == [0.0, 0.1611]
    assert wilson(1, 20).high == 1.0


def test_independent_answers_have_wilsons_interval() -> None:
    assert accuracy_interval(independent([1.0] * 30 + [0.0] * 70)) == wilson(0.3, 100)


def test_questions_that_share_material_widen_the_interval() -> None:
    """Twenty passages with five questions each, all right or all wrong: twenty answers, not a hundred."""
    values = np.repeat([1.0, 0.0] * 10, 5)
    found = accuracy_interval(Sample(values, np.repeat(np.arange(20), 5), 100))
    assert found.high - found.low > 2 * (wilson(0.5, 100).high - wilson(0.5, 100).low)
    twenty = wilson(0.5, 19)
    assert found.low == pytest.approx(twenty.low, abs=0.01)
    assert found.high == pytest.approx(twenty.high, abs=0.01)


def test_answers_to_one_question_are_one_cluster() -> None:
    """Ten answers to each of ten questions, which are always right or always wrong, are ten answers."""
    sample = Sample(np.array([1.0] * 4 + [0.0] * 6), np.arange(10), 100)
    assert accuracy_interval(sample).low < wilson(0.4, 10).low


def test_one_cluster_counts_as_one_answer() -> None:
    assert accuracy_interval(Sample(np.array([1.0, 0.0, 1.0]), np.zeros(3, np.int64), 3)) == wilson(2 / 3, 1)
    assert math.isinf(spread(np.array([1.0, 0.0]), np.zeros(2, np.int64)).error)


def test_the_error_of_independent_questions_is_the_usual_one() -> None:
    values = np.array([1.0, 0.0, 0.0, 1.0, 1.0])
    assert spread(values, np.arange(5)).error == pytest.approx(values.std(ddof=1) / math.sqrt(5))
    assert spread(values, np.arange(5)).freedom == 4


@pytest.mark.parametrize(("answers", "right", "k"), [(5, 2, 1), (5, 2, 3), (6, 1, 2), (4, 0, 2), (4, 4, 4), (5, 4, 2)])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(answers: int, right: int, k: int) -> None:
    """Against a count of all ordered draws without replacement."""
    draws = [draw for draw in product(range(answers), repeat=k) if len(set(draw)) == k]
    passed = sum(any(each < right for each in draw) for draw in draws)
    assert pass_at_k([right], [answers], k)[0] == pytest.approx(passed / len(draws))


def test_pass_at_k_refuses_fewer_answers_than_k() -> None:
    with pytest.raises(ValueError, match="pass@4 takes questions with at least 4 answers, got one with 3"):
        pass_at_k([1, 1], [8, 3], 4)


def test_the_bootstrap_is_seeded_and_has_the_variance_of_the_mean() -> None:
    sample = independent([1.0] * 8 + [0.0] * 12)
    draws = bootstrap([sample], 20_000, 1)
    assert np.array_equal(draws, bootstrap([sample], 20_000, 1))
    assert draws.std() == pytest.approx(spread(sample.values, sample.clusters).error, rel=0.02)
    assert draws.mean() == pytest.approx(0.4, abs=0.005)


def test_a_mean_over_tasks_weighs_them_and_is_about_the_same_tasks() -> None:
    """The error of two tasks is the root of the sum of their weighted squares: tasks are not drawn again."""
    first, second = independent([1.0] * 50 + [0.0] * 50), independent([1.0] * 10 + [0.0] * 390)
    found = weighted_mean([first, second], [0.5, 2.0], offset=-0.1)
    assert found.value == pytest.approx(0.5 * 0.5 + 2 * 0.025 - 0.1)
    errors = [spread(each.values, each.clusters).error for each in (first, second)]
    assert found.error == pytest.approx(math.hypot(0.5 * errors[0], 2 * errors[1]))
    assert found.interval.low == pytest.approx(found.value - 1.96 * found.error, abs=0.01)
    assert found.interval.high == pytest.approx(found.value + 1.96 * found.error, abs=0.01)
