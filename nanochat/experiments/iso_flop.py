"""The best model size for each amount of compute: minima of loss over parameters at equal FLOPs.

Hoffmann et al. 2022, arXiv:2203.15556, approach 2: a parabola of the loss over the logarithm of the parameters.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nanochat.experiments.scaling_law import Point, count_amounts

SAME_BUDGET = 1.1
"""Runs whose FLOPs differ by less than this factor have one budget: their last step is rounded."""
LEAST_SIZES = 3


@dataclass(frozen=True)
class Budget:
    """The runs of one amount of compute."""

    flops: float
    """Geometric mean over the runs."""
    points: Sequence[Point]
    """Its runs, smallest model first."""
    parameters: float | None
    """Of the best size; None if the runs do not show it."""
    tokens: float | None
    loss: float | None
    problem: str = ""
    """Why there is no best size, in one sentence."""


@dataclass(frozen=True)
class BestSizes:
    """How the best size grows: `parameters = scale * FLOPs ** exponent`."""

    scale: float
    exponent: float

    def at(self, flops: float) -> float:
        return self.scale * flops**self.exponent


def budgets(points: Sequence[Point]) -> list[Budget]:
    """The budgets with more than one model size, smallest first."""
    return [_budget(group) for group in _groups(points) if _has_sizes(group)]


def frontier(points: Sequence[Point]) -> list[Point]:
    """The runs of the best size of each budget with several model sizes, and all other runs.

    The best size has the lowest mean over its runs: the lowest run would be that of the luckiest seed, which is the
    lower the more seeds there are.
    """
    kept = (_of_best_size(group) if _has_sizes(group) else group for group in _groups(points))
    return list(itertools.chain.from_iterable(kept))


def _of_best_size(group: Sequence[Point]) -> list[Point]:
    sizes = [list(of) for _, of in itertools.groupby(group, key=lambda point: point.parameters)]
    return min(sizes, key=lambda of: math.fsum(point.loss for point in of) / len(of))


def _groups(points: Sequence[Point]) -> list[list[Point]]:
    """The runs of each budget, smallest budget and smallest model first."""
    groups: list[list[Point]] = []
    for point in sorted(points, key=lambda point: point.flops):
        if groups and point.flops < SAME_BUDGET * groups[-1][0].flops:
            groups[-1].append(point)
        else:
            groups.append([point])
    return [sorted(group, key=lambda point: point.parameters) for group in groups]


def _has_sizes(group: Sequence[Point]) -> bool:
    return count_amounts([math.log(each.parameters) for each in group]) > 1


def best_sizes(found: Sequence[Budget]) -> BestSizes | None:
    """The line through the minima, on logarithmic axes; None for fewer than two."""
    minima = [(math.log(each.flops), math.log(each.parameters)) for each in found if each.parameters]
    if len(minima) < 2 or all(a == b for (a, _), (b, _) in itertools.pairwise(minima)):
        return None
    slope, height = np.polyfit([x for x, _ in minima], [y for _, y in minima], 1)
    return BestSizes(math.exp(height), float(slope))


def _budget(group: Sequence[Point]) -> Budget:
    flops = math.exp(float(np.mean([math.log(point.flops) for point in group])))
    sizes = np.log([point.parameters for point in group])
    losses = np.array([point.loss for point in group])

    def unknown(problem: str) -> Budget:
        return Budget(flops, group, None, None, None, problem)

    if (different := count_amounts(sizes)) < LEAST_SIZES:
        return unknown(f"a minimum takes {LEAST_SIZES} model sizes or more, and there are {different}")
    curvature, slope, height = np.polyfit(sizes - sizes.mean(), losses, 2)
    if curvature <= 0:
        return unknown("the loss over model sizes has no minimum")
    place = -slope / (2 * curvature)
    best = place + sizes.mean()
    if not sizes.min() <= best <= sizes.max():
        larger = "larger" if best > sizes.max() else "smaller"
        return unknown(f"the best size is outside of these: add {larger} models")
    tokens = np.polyval(np.polyfit(sizes, np.log([point.tokens for point in group]), 1), best)
    loss = height - slope**2 / (4 * curvature)
    return Budget(flops, group, math.exp(best), math.exp(tokens), float(loss))
