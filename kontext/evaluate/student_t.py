"""Student's t distribution, without scipy: the stages that train and score import few packages."""

import math
from functools import lru_cache
from statistics import NormalDist

_TINY, _EPS = 1e-300, 1e-12


def two_sided(t: float, df: float) -> float:
    """P(|T| > |t|) of Student's t with `df` > 0 degrees of freedom (a fraction is allowed)."""
    if math.isinf(t):
        return 0.0
    return _incomplete_beta(df / 2, 0.5, df / (df + t * t))


@lru_cache(maxsize=4096)
def quantile(df: float, level: float = 0.95) -> float:
    """The t with P(|T| > t) = 1 - level; `level` in (0, 1)."""
    found = NormalDist().inv_cdf((1 + level) / 2)  # below the quantile of any t distribution
    for _ in range(100):  # the tail is convex: Newton's steps rise to the root
        step = (two_sided(found, df) - (1 - level)) / (2 * _density(found, df))
        found += step
        if step < _EPS * found:
            break
    return found


def _density(t: float, df: float) -> float:
    scale = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(df * math.pi)
    return math.exp(scale - (df + 1) / 2 * math.log1p(t * t / df))


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b), 0 <= x <= 1."""
    if x <= 0 or x >= 1:
        return min(max(x, 0.0), 1.0)
    if x > (a + 1) / (a + b + 2):  # there the fraction converges slowly
        return 1 - _incomplete_beta(b, a, 1 - x)
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front = math.exp(scale + a * math.log(x) + b * math.log1p(-x)) / a
    return front * _fraction(a, b, x)


def _fraction(a: float, b: float, x: float) -> float:
    """Its continued fraction, by Lentz's method."""
    c, d = 1.0, _bounded(1 - (a + b) * x / (a + 1))
    d = 1 / d
    found = d
    for m in range(1, 10_000):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _bounded(1 + term * d)
            c = _bounded(1 + term / c)
            found *= c * d
        if abs(c * d - 1) < _EPS:
            break
    return found


def _bounded(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
