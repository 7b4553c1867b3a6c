"""Robust nonlinear least squares, for many starts or many resamples at once. NumPy only."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

Model = Callable[[Floats], tuple[Floats, Floats]]
"""Parameters (S, p) → predictions (S, n), and their derivatives (S, n, p)."""

STEPS = 300
TINY = 1e-30
LEAST_DAMPING, MOST_DAMPING = 1e-12, 1e10
IMPROVEMENT = 1e-13
"""A start has converged when three steps in a row lower its cost by less than this share."""


def minimize(
    model: Model, starts: Floats, targets: Floats, delta: float, bounds: tuple[Floats, Floats]
) -> tuple[Floats, Floats]:
    """Parameters (S, p) that minimize Huber's loss (Huber 1964) of `targets - predictions` from each start; costs (S,).

    `targets` are (n,) or (S, n); residuals above `delta` count linearly. The method is that of Levenberg and Marquardt,
    with Huber's weights recomputed at each step; a step that does not lower the cost is not taken. `bounds` are the
    lowest and highest parameters, (p,).
    """
    found, count = starts.astype(np.float64), len(starts)
    wanted = np.broadcast_to(targets, (count, targets.shape[-1]))
    predicted, slopes = model(found)
    costs = _costs(wanted - predicted, delta)
    damping, idle = np.full(count, 1e-3), np.zeros(count, np.int64)
    for _ in range(STEPS):
        active = np.flatnonzero(idle < 3)
        if not len(active):
            break
        proposed = np.clip(
            found[active] + _step(wanted[active] - predicted[active], slopes[active], delta, damping[active]), *bounds
        )
        new_predicted, new_slopes = model(proposed)
        new_costs = _costs(wanted[active] - new_predicted, delta)
        old = costs[active]
        better = new_costs < old
        taken = active[better]
        found[taken], costs[taken] = proposed[better], new_costs[better]
        predicted[taken], slopes[taken] = new_predicted[better], new_slopes[better]
        damping[active] = np.clip(
            np.where(better, damping[active] / 5, damping[active] * 4), LEAST_DAMPING, MOST_DAMPING
        )
        small = np.where(better, old - new_costs <= IMPROVEMENT * old + TINY, damping[active] >= MOST_DAMPING)
        idle[active] = np.where(small, idle[active] + 1, np.where(better, 0, idle[active]))
    return found, costs


def robust_scale(residuals: Floats, parameters: int) -> float:
    """Standard deviation of residuals from a fit, by their median absolute value; not moved by a few outliers.

    The smallest `parameters - 1` residuals are left out: a fit makes that many of them nearly 0.
    """
    sizes = np.sort(np.abs(residuals))[min(parameters, len(residuals)) - 1 :]
    return float(np.median(sizes)) / 0.6745


def _step(residuals: Floats, slopes: Floats, delta: float, damping: Floats) -> Floats:
    weighted = slopes * np.minimum(1.0, delta / np.maximum(np.abs(residuals), TINY))[..., None]
    normal = np.swapaxes(weighted, 1, 2) @ slopes
    gradient = (weighted * residuals[..., None]).sum(1)
    count = normal.shape[-1]
    diagonal = normal[:, range(count), range(count)]
    floor = 1e-12 * diagonal.max(1, keepdims=True) + TINY
    normal[:, range(count), range(count)] = diagonal + damping[:, None] * (diagonal + floor) + floor * 1e-3
    return np.linalg.solve(normal, gradient[..., None])[..., 0]


def _costs(residuals: Floats, delta: float) -> Floats:
    sizes = np.abs(residuals)
    costs = np.where(sizes <= delta, 0.5 * sizes**2, delta * (sizes - 0.5 * delta)).sum(-1)
    return np.where(np.isfinite(costs), costs, np.inf)
