"""Learning rate, momentum and weight decay at each step: pure functions of the step, so a resumed run has the same."""

import math
from dataclasses import dataclass

from nanochat.config.chat import SFTConfig
from nanochat.config.training import OptimizerConfig

MOMENTUM_START, MOMENTUM_PEAK, MOMENTUM_END, MOMENTUM_WARMUP_STEPS = 0.85, 0.97, 0.90, 400
SFT_MOMENTUM_PEAK, SFT_MOMENTUM_WARMUP_STEPS = 0.95, 300
RL_MOMENTUM = 0.95


@dataclass(frozen=True)
class StepRates:
    """The settings of the optimizer that change from step to step."""

    lr_multiplier: float
    """Factor on the learning rate of every group."""
    muon_momentum: float
    muon_weight_decay: float


def rates(step: int, steps: int, config: OptimizerConfig, muon_weight_decay: float) -> StepRates:
    """The rates of pretraining at step 0 … steps-1; `muon_weight_decay` is that of the `Hyperparameters`.

    The learning rate warms up linearly, is constant, and warms down linearly to a fraction. Momentum rises for 400
    steps, and falls during the warm-down; in a short run where the two overlap, it rises. Weight decay follows a cosine
    to 0.
    """
    warmdown_steps = round(config.warmdown_fraction * steps)
    left = min((steps - step) / warmdown_steps, 1.0) if warmdown_steps else 1.0  # share of the warm-down; 1 before it
    lr = left + (1 - left) * config.final_lr_fraction
    if step < config.warmup_steps:
        lr = (step + 1) / config.warmup_steps
    momentum = _between(MOMENTUM_END, MOMENTUM_PEAK, left)
    if step < MOMENTUM_WARMUP_STEPS:
        momentum = _between(MOMENTUM_START, MOMENTUM_PEAK, step / MOMENTUM_WARMUP_STEPS)
    decay = muon_weight_decay * 0.5 * (1 + math.cos(math.pi * step / steps))
    return StepRates(lr, momentum, decay)


def sft_rates(step: int, steps: int, config: SFTConfig) -> StepRates:
    """The rates of supervised fine-tuning: no warm-up, a linear warm-down to 0, no weight decay."""
    left = (steps - step) / (config.warmdown_fraction * steps) if config.warmdown_fraction else 1.0
    momentum = _between(MOMENTUM_START, SFT_MOMENTUM_PEAK, step / SFT_MOMENTUM_WARMUP_STEPS)
    return StepRates(config.lr_fraction * min(left, 1.0), momentum, 0.0)


def rl_rates(step: int, steps: int, lr_fraction: float) -> StepRates:
    """The rates of reinforcement learning: a linear warm-down to 0 from the first step, no weight decay."""
    return StepRates(lr_fraction * (1 - step / steps), RL_MOMENTUM, 0.0)


def _between(low: float, high: float, share: float) -> float:
    share = min(max(share, 0.0), 1.0)
    return low + share * (high - low)
