"""Advantages and shares: documented weights for each loss, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nanochat.config.rl import NANOCHAT_LOSS, RLConfig, RLLoss
from nanochat.rl.advantages import advantages, is_live, shares

ALL = np.ones((2, 4), bool)
REWARDS = np.array([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]])


def test_rewards_minus_the_mean_of_the_group() -> None:
    assert advantages(REWARDS, ALL, RLLoss()).tolist() == [[0.5, -0.5, -0.5, 0.5], [0, 0, 0, 0]]
    by_group = advantages(REWARDS, ALL, RLLoss(advantage="group_sd"))
    assert by_group[0] == pytest.approx([1, -1, -1, 1], abs=1e-5)
    by_batch = advantages(REWARDS, ALL, RLLoss(advantage="batch_sd"))
    assert by_batch[0] == pytest.approx(np.array([0.5, -0.5, -0.5, 0.5]) / np.sqrt(1 / 8), abs=1e-4)


def test_answers_that_do_not_count_are_not_in_the_mean() -> None:
    """Case 35: masked rows, and answers whose reward failed (NaN)."""
    counts = np.array([[True, True, False, False], [True, True, True, False]])
    rewards = np.array([[1.0, 0.0, 1.0, np.nan], [0.3, 0.3, 0.3, np.nan]])
    assert advantages(rewards, counts, RLLoss()).tolist() == [[0.5, -0.5, 0, 0], [0, 0, 0, 0]]
    assert is_live(rewards, counts).tolist() == [True, False]


def test_a_group_of_equal_rewards_has_advantages_of_exactly_0() -> None:
    """Case 37 (TRL#6367): 0.1 + 0.1 + 0.1 is not 0.3, and a standard deviation of rounding errors would blow it up."""
    rewards = np.full((1, 3), 0.1)
    for advantage in ("centered", "group_sd", "batch_sd"):
        assert not advantages(rewards, np.ones((1, 3), bool), RLLoss(advantage=advantage)).any()


@pytest.mark.parametrize(
    ("divided_by", "long", "short"),
    [("tokens", 1 / 101, 1 / 101), ("sequence", 1 / 200, 1 / 2), ("constant", 1 / 512, 1 / 512)],
)
def test_a_long_right_answer_and_a_short_wrong_one(divided_by: Any, long: float, short: float) -> None:
    """Case 43 (TRL#3187): +1 of 100 tokens and -1 of 1 token; the share of each token in the loss."""
    found = shares([100, 1], [0, 0], [0, 1], RLLoss(divided_by=divided_by), max_tokens=256, prompts=1)
    assert found.tolist() == pytest.approx([long, short])


def test_shares_of_nanochat_count_the_tokens_of_each_pass_of_8() -> None:
    lengths = [3] * 8 + [5] * 4 + [2] * 12
    groups, samples = [0] * 12 + [1] * 12, [*range(12), *range(12)]
    found = shares(lengths, groups, samples, NANOCHAT_LOSS, max_tokens=256, prompts=2)
    assert found[0] == pytest.approx(1 / (24 * 2 * 2))
    assert found[8] == pytest.approx(1 / (20 * 2 * 2))
    assert found[12] == pytest.approx(1 / (16 * 2 * 2))


def test_shares_of_a_step_do_not_depend_on_the_order_of_rows() -> None:
    forward = shares([3, 9, 4], [0, 0, 1], [0, 1, 0], RLLoss(), 16, 2)
    assert forward.tolist() == pytest.approx([1 / 16] * 3)


def test_a_group_of_one_is_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match="a group of one answer has no mean to compare with"):
        RLConfig(group_size=1)
