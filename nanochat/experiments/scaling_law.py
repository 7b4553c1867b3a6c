"""A law of loss over compute, parameters or tokens, fitted to finished runs, with its uncertainty.

The law is `loss = E + Σ scale * x ** -exponent`, where E is the irreducible loss and x one of `AXES`, or parameters and
tokens together (Hoffmann et al. 2022, arXiv:2203.15556, approach 3). Residuals are those of the logarithm of the loss,
with Huber's loss. The starts are a dense grid of exponents, with non-negative least squares for E and the scales
(arXiv:2603.22339); all of them are refined together.

The uncertainty is a bootstrap by run: each draw gives every run the residual of a run drawn at random, and fits again.
Runs with their compute are not redrawn: a few rungs, some of them twice and some not at all, determine no law.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nanochat.errors import NotComparable
from nanochat.evaluation.distributions import normal_quantile, t_quantile
from nanochat.evaluation.statistics import CONFIDENCE, Interval
from nanochat.experiments.robust_fit import Floats, Model, minimize, robust_scale

Axis = Literal["flops", "parameters", "tokens"]
AXES: tuple[Axis, ...] = ("flops", "parameters", "tokens")

LEAST_RUNS = 5
DRAWS = 400
FIRST_DELTA = 1e-3
"""Of Huber's loss in the first fit, as in Hoffmann et al.; the second one takes 1.345 times the robust scale."""
LEAST_DELTA = 1e-6
SAME = 1.02
"""Amounts whose ratio is below this count as equal: runs are rounded to whole steps."""
EXPONENTS = np.geomspace(0.02, 2.5, 24)
BELOW = 12.0
"""The terms of a law are at least exp(-12) of the smallest loss: then they count as 0."""


@dataclass(frozen=True)
class Point:
    """A finished run: what it cost, and the loss that it reached."""

    flops: float
    parameters: float
    tokens: float
    loss: float
    """Positive; for example bits per byte."""
    name: str = ""


@dataclass(frozen=True)
class Term:
    """`scale * x ** -exponent`."""

    axis: Axis
    scale: float
    exponent: float


@dataclass(frozen=True)
class ScalingLaw:
    """The law, and laws fitted to redrawn residuals."""

    axes: tuple[Axis, ...]
    centers: Floats
    """Mean logarithm of each axis, (k,)."""
    parameters: Floats
    """log E, then the log of each term at its center and its exponent: (1 + 2k,)."""
    draws: Floats
    """The same for each draw, (draws, 1 + 2k)."""
    residuals: Floats
    """Of the logarithms, (n,), widened for the degrees of freedom."""
    freedom: int
    """Runs minus parameters."""

    @property
    def irreducible(self) -> float:
        """E: the loss that no compute removes."""
        return math.exp(self.parameters[0])

    @property
    def terms(self) -> tuple[Term, ...]:
        """The terms that vanish with more compute."""
        return tuple(
            Term(axis, math.exp(log + exponent * center), float(exponent))
            for axis, center, log, exponent in zip(
                self.axes, self.centers, self.parameters[1::2], self.parameters[2::2], strict=True
            )
        )

    def at(self, amounts: Mapping[Axis, float]) -> float:
        """The loss at these amounts of the law's axes."""
        return math.exp(self._logs(self.parameters[None], amounts)[0])

    def band(self, amounts: Mapping[Axis, float], confidence: float = CONFIDENCE) -> Interval:
        """Interval of the mean loss of runs with these amounts."""
        logs = self._logs(self.draws, amounts)
        return _exp(stretched(math.log(self.at(amounts)), logs, self.freedom, confidence))

    def prediction(self, amounts: Mapping[Axis, float], confidence: float = CONFIDENCE) -> Interval:
        """Interval of the loss of one new run, which has a noise of its own."""
        noise = np.random.default_rng(1).choice(self.residuals, len(self.draws))
        logs = self._logs(self.draws, amounts) + noise
        return _exp(stretched(math.log(self.at(amounts)), logs, self.freedom, confidence))

    def exponent_interval(self, axis: Axis, confidence: float = CONFIDENCE) -> Interval:
        """Interval of the exponent of an axis."""
        column = 2 + 2 * self.axes.index(axis)
        found = stretched(float(self.parameters[column]), self.draws[:, column], self.freedom, confidence)
        return Interval(max(0.0, found.low), found.high)

    def irreducible_interval(self, confidence: float = CONFIDENCE) -> Interval:
        """Interval of E."""
        found = stretched(self.irreducible, np.exp(self.draws[:, 0]), self.freedom, confidence)
        return Interval(max(0.0, found.low), found.high)

    def _logs(self, parameters: Floats, amounts: Mapping[Axis, float]) -> Floats:
        logs = np.array([[math.log(amounts[axis])] for axis in self.axes]) - self.centers[:, None]
        return law_model(logs)(parameters)[0][:, 0]


def fit_law(
    points: Sequence[Point], axes: Sequence[Axis] = ("flops",), draws: int = DRAWS, seed: int = 0
) -> ScalingLaw:
    """Fits the law of one axis, or of parameters and tokens.

    Raises `NotComparable` for fewer than five runs (two axes: seven), for fewer than four different amounts, and, with
    two axes, for one ratio of tokens to parameters.
    """
    logs = np.log([[getattr(point, axis) for point in points] for axis in axes]).reshape(len(axes), len(points))
    losses = np.array([point.loss for point in points])
    _check(points, axes, logs)
    centers = logs.mean(1)
    model, targets = law_model(logs - centers[:, None]), np.log(losses)
    starts = law_starts(logs - centers[:, None], losses)
    found = fit_with_draws(model, starts, targets, law_bounds(losses, len(axes)), draws, seed)
    return ScalingLaw(tuple(axes), centers, *found)


def fit_with_draws(
    model: Model, starts: Floats, targets: Floats, bounds: tuple[Floats, Floats], draws: int, seed: int
) -> tuple[Floats, Floats, Floats, int]:
    """The best parameters, those of each draw, the widened residuals, and the degrees of freedom."""
    runs, count = len(targets), starts.shape[1]
    found, costs = minimize(model, starts, targets, FIRST_DELTA, bounds)
    best = found[int(np.argmin(costs))]
    delta = max(LEAST_DELTA, 1.345 * robust_scale(targets - model(best[None])[0][0], count))
    found, costs = minimize(model, np.concatenate([found, best[None]]), targets, delta, bounds)
    order = np.argsort(costs, kind="stable")
    best, freedom = found[order[0]], runs - count
    fitted = model(best[None])[0][0]
    residuals = targets - fitted
    widened = (residuals - residuals.mean()) * math.sqrt(runs / max(1, freedom))
    redrawn = fitted + np.random.default_rng(seed).choice(widened, (draws, runs))
    others = _different(found[order], costs[order])
    refits = [minimize(model, np.tile(start, (draws, 1)), redrawn, delta, bounds) for start in others]
    each = np.argmin([cost for _, cost in refits], axis=0)
    chosen = np.array([parameters for parameters, _ in refits])[each, np.arange(draws)]
    return best, chosen, widened, freedom


def law_model(logs: Floats) -> Model:
    """The logarithm of the law at centered logarithms of the amounts, (k, n)."""
    return lambda parameters: law_values(parameters, logs)


def law_values(parameters: Floats, logs: Floats) -> tuple[Floats, Floats]:
    """Logarithms of the law, (S, n), and derivatives, (S, n, 1 + 2k).

    `logs` are logarithms of the amounts: (k, n), or (S, k, n) if they differ between the S parameters.
    """
    exponents = parameters[:, 2::2]
    terms = parameters[:, 1::2, None] - exponents[:, :, None] * logs  # (S, k, n)
    runs = terms.shape[-1]
    every = np.concatenate([np.broadcast_to(parameters[:, :1, None], (len(parameters), 1, runs)), terms], 1)
    highest = every.max(1, keepdims=True)
    predicted = highest[:, 0] + np.log(np.exp(every - highest).sum(1))
    shares = np.exp(every - predicted[:, None])
    slopes = np.empty((len(parameters), runs, parameters.shape[1]))
    slopes[..., 0] = shares[:, 0]
    slopes[..., 1::2] = np.swapaxes(shares[:, 1:], 1, 2)
    slopes[..., 2::2] = np.swapaxes(-logs * shares[:, 1:], 1, 2)
    return predicted, slopes


@dataclass(frozen=True)
class LargestRun:
    """The largest runs, predicted by a law of the others."""

    name: str
    measured: float
    predicted: float
    interval: Interval

    @property
    def is_inside(self) -> bool:
        return self.measured in self.interval or math.isclose(self.measured, self.predicted, rel_tol=1e-6)


def predict_largest(points: Sequence[Point], confidence: float = CONFIDENCE) -> LargestRun:
    """Fits the law over compute to all runs smaller than the largest one, and predicts that. Raises as `fit_law`."""
    *others, largest = sorted(points, key=lambda point: point.flops)
    law = fit_law([each for each in others if each.flops * SAME < largest.flops])
    at: dict[Axis, float] = {"flops": largest.flops}
    return LargestRun(largest.name, largest.loss, law.at(at), law.prediction(at, confidence))


def count_amounts(logs: Sequence[float] | Floats) -> int:
    """How many different amounts there are, given their logarithms."""
    ordered = sorted(logs)
    return 1 + sum(b - a > math.log(SAME) for a, b in itertools.pairwise(ordered)) if ordered else 0


def stretched(value: float, draws: Floats, freedom: int, confidence: float) -> Interval:
    """Percentiles of the draws, with the distance to the value widened as Student's t is wider than the normal.

    (Hesterberg 2015, arXiv:1411.5279, section 5.3, on the distances in place of the percentiles, for few draws.)
    """
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    wider = t_quantile(1 - tail, max(1, freedom)) / normal_quantile(1 - tail)
    return Interval(value - max(0.0, value - low) * wider, value + max(0.0, high - value) * wider)


def _exp(interval: Interval) -> Interval:
    return Interval(math.exp(interval.low), math.exp(interval.high))


def _check(points: Sequence[Point], axes: Sequence[Axis], logs: Floats) -> None:
    least = LEAST_RUNS if len(axes) == 1 else 2 * len(axes) + 3
    names = " and ".join(_name(axis) for axis in axes)
    if len(points) < least:
        raise NotComparable(f"A law over {names} takes {least} runs or more, and there are {len(points)}.")
    if fewer := [_name(axis) for axis, row in zip(axes, logs, strict=True) if count_amounts(row) < 4]:
        raise NotComparable(f"A law over {names} takes four different amounts or more of {' and of '.join(fewer)}.")
    if len(axes) > 1 and count_amounts(logs[1] - logs[0]) < 2:
        raise NotComparable(
            "A law over parameters and tokens takes more than one ratio of them, and all runs have the same.",
            hint="Train some of the depths longer.",
        )


def _name(axis: Axis) -> str:
    return "FLOPs" if axis == "flops" else axis


def law_starts(logs: Floats, losses: Floats) -> Floats:
    """Parameters for each combination of exponents on the grid, (G, 1 + 2k)."""
    grid = EXPONENTS if len(logs) == 1 else EXPONENTS[::2]
    smallest = 1e-4 * float(losses.min())
    starts: list[list[float]] = []
    for exponents in itertools.product(grid, repeat=len(logs)):
        columns = np.concatenate([np.ones((1, logs.shape[1])), np.exp(-np.array(exponents)[:, None] * logs)])
        sizes = np.maximum(smallest, non_negative_least_squares((columns / losses).T, np.ones(len(losses))))
        terms = itertools.chain.from_iterable(zip(np.log(sizes[1:]), exponents, strict=True))
        starts.append([float(np.log(sizes[0])), *map(float, terms)])
    return np.array(starts)


def non_negative_least_squares(columns: Floats, target: Floats) -> Floats:
    """Non-negative coefficients of a few columns, (n, k), nearest to the target: the best of all sets of columns."""
    best, least = np.zeros(columns.shape[1]), float((target**2).sum())
    for size in range(1, columns.shape[1] + 1):
        for chosen in itertools.combinations(range(columns.shape[1]), size):
            part = columns[:, chosen]
            found = np.linalg.lstsq(part, target, rcond=None)[0]
            cost = float(((target - part @ found) ** 2).sum())
            if (found >= 0).all() and cost < least:
                best, least = np.zeros(columns.shape[1]), cost
                best[list(chosen)] = found
    return best


def law_bounds(losses: Floats, axes: int) -> tuple[Floats, Floats]:
    lowest, highest = math.log(losses.min()) - BELOW, math.log(losses.max()) + BELOW
    return np.array([lowest, *[lowest, 1e-3] * axes]), np.array([math.log(losses.min()) + 1, *[highest, 4.0] * axes])


def _different(found: Floats, costs: Floats, most: int = 3) -> list[Floats]:
    """The best minimum and other ones that are nearly as good, which a draw may prefer."""
    kept: list[Floats] = []
    for parameters, cost in zip(found, costs, strict=True):
        if len(kept) == most or cost > 4 * costs[0] + 1e-12:
            break
        if all(np.abs(parameters - other).max() > 0.05 for other in kept):
            kept.append(parameters)
    return kept
