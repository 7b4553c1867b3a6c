"""Quantiles and tails of the normal and Student's t distribution, for intervals and p-values."""

import math
from functools import lru_cache
from statistics import NormalDist

TINY, TERMS, STEPS = 1e-300, 10_000, 200


def normal_tail(deviate: float) -> float:
    """Probability that a standard normal variable is above `deviate`."""
    return 0.5 * math.erfc(deviate / math.sqrt(2))


def normal_quantile(probability: float) -> float:
    """The value below which a standard normal variable is with this probability."""
    return NormalDist().inv_cdf(probability)


def t_tail(deviate: float, freedom: float) -> float:
    """Probability that Student's t with these degrees of freedom is above `deviate`.

    From the incomplete beta function: DLMF 8.17.5 and Abramowitz and Stegun 26.7.1. `math.inf` is the normal.
    """
    if math.isinf(freedom):
        return normal_tail(deviate)
    upper = 0.5 * _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + deviate * deviate))
    return upper if deviate >= 0 else 1 - upper


@lru_cache(1024)
def t_quantile(probability: float, freedom: float) -> float:
    """The value below which Student's t with these degrees of freedom is with this probability.

    By Newton's method from the quantile of the normal distribution, which is nearer to 0: as the tail is convex, the
    steps never pass the quantile.
    """
    if probability < 0.5:
        return -t_quantile(1 - probability, freedom)
    value = normal_quantile(probability)
    for _ in range(0 if math.isinf(freedom) else STEPS):
        step = (t_tail(value, freedom) - (1 - probability)) / _t_density(value, freedom)
        value += step
        if step <= 1e-14 * value:
            break
    return value


def _t_density(value: float, freedom: float) -> float:
    scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(freedom * math.pi)
    return math.exp(scale - (freedom + 1) / 2 * math.log1p(value * value / freedom))


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Regularized incomplete beta function by its continued fraction (DLMF 8.17.22), evaluated as Lentz does."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # there it converges slowly
        return 1 - _incomplete_beta(b, a, 1 - x)
    scale = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    ) / a  # fmt: skip
    fraction, numerator, denominator = 1.0, 1.0, 0.0
    for term in range(TERMS):
        m = term // 2
        if term == 0:
            coefficient = 1.0
        elif term % 2 == 0:
            coefficient = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            coefficient = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        denominator = 1 / _away_from_zero(1 + coefficient * denominator)
        numerator = _away_from_zero(1 + coefficient / numerator)
        factor = numerator * denominator
        fraction *= factor
        if term and abs(factor - 1) < 1e-15:
            break
    return scale * (fraction - 1)


def _away_from_zero(value: float) -> float:
    return value if abs(value) > TINY else TINY
