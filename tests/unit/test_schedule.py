"""Rates over a run."""

from __future__ import annotations

import math

import pytest

from nanochat.config.chat import SFTConfig
from nanochat.config.training import OptimizerConfig
from nanochat.optim.schedule import rates, sft_rates


def test_pretraining_rates_at_their_corners() -> None:
    def at(step: int, steps: int = 2000) -> tuple[float, float, float]:
        now = rates(step, steps, OptimizerConfig(), 0.28)
        return now.lr_multiplier, now.muon_momentum, now.muon_weight_decay

    assert at(0) == pytest.approx((1 / 40, 0.85, 0.28))
    assert at(39)[0] == pytest.approx(1)
    assert at(200)[:2] == pytest.approx((1, 0.91))
    assert at(700)[:2] == pytest.approx((1, 0.97))  # the warm-down begins
    assert at(1000)[2] == pytest.approx(0.14)
    assert at(1350)[:2] == pytest.approx((0.525, 0.935))
    assert at(2000) == pytest.approx((0.05, 0.90, 0))


@pytest.mark.parametrize("steps", [1, 3, 50, 528, 2520])
def test_every_step_follows_the_recipe(steps: int) -> None:
    """nanochat's three rules, written as it states them."""
    down = round(0.65 * steps)
    for step in range(steps):
        now = rates(step, steps, OptimizerConfig(), 0.5)
        share = (steps - step) / down
        lr = (step + 1) / 40 if step < 40 else 1.0 if step <= steps - down else share + (1 - share) * 0.05
        rising, falling = 0.85 + 0.12 * step / 400, 0.97 - 0.07 * (1 - share)
        momentum = rising if step < 400 else falling if step >= steps - down else 0.97
        decay = 0.25 * (1 + math.cos(math.pi * step / steps))
        assert (now.lr_multiplier, now.muon_momentum, now.muon_weight_decay) == pytest.approx((lr, momentum, decay))


def test_fine_tuning_rates() -> None:
    config = SFTConfig(lr_fraction=0.8, warmdown_fraction=0.5)
    assert sft_rates(0, 400, config).lr_multiplier == pytest.approx(0.8)
    assert sft_rates(200, 400, config).lr_multiplier == pytest.approx(0.8)
    assert sft_rates(300, 400, config).lr_multiplier == pytest.approx(0.4)
    assert sft_rates(300, 400, config).muon_momentum == pytest.approx(0.95)
    assert sft_rates(0, 400, config).muon_weight_decay == 0
