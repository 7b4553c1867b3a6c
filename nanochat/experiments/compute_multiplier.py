"""How many times more compute one recipe needs than another one for the same loss.

Both recipes follow one law, `loss = E + scale * (m * FLOPs) ** -exponent`, where the multiplier m is 1 for the first of
them: a recipe of multiplier 1.5 is as good as the first one with half as much compute again.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nanochat.errors import NotComparable
from nanochat.evaluation.statistics import CONFIDENCE, Interval
from nanochat.experiments.robust_fit import Floats, Model
from nanochat.experiments.scaling_law import (
    DRAWS,
    LEAST_RUNS,
    Point,
    count_amounts,
    fit_with_draws,
    law_bounds,
    law_starts,
    law_values,
    stretched,
)

MOST_LOG = math.log(1e4)


@dataclass(frozen=True)
class Multiplier:
    """The compute of the first recipe over that of the second one, at equal loss."""

    value: float
    interval: Interval
    is_extrapolated: bool
    """Whether the recipes have no loss in common: then it depends on the law, not on the runs alone."""


def compute_multiplier(
    first: Sequence[Point], second: Sequence[Point], confidence: float = CONFIDENCE, draws: int = DRAWS, seed: int = 0
) -> Multiplier:
    """The multiplier of the second recipe over the first one.

    Raises `NotComparable` for fewer than five runs of the first recipe, fewer than four amounts of compute in them, or
    no run of the second one.
    """
    if len(first) < LEAST_RUNS or not second:
        raise NotComparable(
            f"A compute multiplier takes {LEAST_RUNS} runs or more of the first recipe and one of the other, "
            f"and there are {len(first)} and {len(second)}."
        )
    if count_amounts([math.log(point.flops) for point in first]) < 4:
        raise NotComparable("A compute multiplier takes four different amounts of compute or more of the first recipe.")
    points = [*first, *second]
    flops = np.log([point.flops for point in points])
    losses = np.array([point.loss for point in points])
    logs = (flops - flops.mean())[None]
    is_second = np.array([False] * len(first) + [True] * len(second))
    of_first = law_starts(logs[:, ~is_second], losses[~is_second])
    starts = np.concatenate([np.c_[of_first, np.full(len(of_first), log)] for log in (-1.0, 0.0, 1.0)])
    low, high = law_bounds(losses, 1)
    bounds = np.append(low, -MOST_LOG), np.append(high, MOST_LOG)
    best, drawn, _, freedom = fit_with_draws(_model(logs[0], is_second), starts, np.log(losses), bounds, draws, seed)
    found = stretched(float(best[3]), drawn[:, 3], freedom, confidence)
    one, other = losses[~is_second], losses[is_second]
    apart = bool(one.min() > other.max() or other.min() > one.max())
    return Multiplier(math.exp(best[3]), Interval(math.exp(found.low), math.exp(found.high)), apart)


def _model(logs: Floats, is_second: NDArray[np.bool_]) -> Model:
    """The law with the logarithm of the multiplier as a fourth parameter."""

    def model(parameters: Floats) -> tuple[Floats, Floats]:
        amounts = logs + parameters[:, 3:] * is_second  # (S, n)
        predicted, slopes = law_values(parameters[:, :3], amounts[:, None])
        of_multiplier = -parameters[:, 2:3] * is_second * slopes[..., 1]
        return predicted, np.concatenate([slopes, of_multiplier[..., None]], -1)

    return model
