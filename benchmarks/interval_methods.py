"""Ways to give an interval to sum(top) / sum(bottom) of related items, beside the one in use.

Each takes items [N], the numbers of their clusters [N], the planted truth (which only a method that
is a test may look at), and a generator; it returns the two bounds.
"""

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from kontext.evaluate.statistics import wilson
from kontext.evaluate.student_t import quantile

Floats = NDArray[np.float64]
Bounds = tuple[float, float]
Method = Callable[[Floats, Floats, NDArray[np.int64], float, np.random.Generator], Bounds]
NORMAL = NormalDist()
Z = NORMAL.inv_cdf(0.975)
DRAWS = 399
WEBB = np.sqrt([0.5, 1.0, 1.5])


def sums(top: Floats, bottom: Floats, clusters: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Numerators and denominators [K] of the clusters."""
    return np.bincount(clusters, top), np.bincount(clusters, bottom)


def _resampled(tops: Floats, bottoms: Floats, rng: np.random.Generator) -> Floats:
    k = len(tops)
    counts = rng.multinomial(k, np.full(k, 1 / k), size=DRAWS)
    under = counts @ bottoms
    return (counts @ tops)[under > 0] / under[under > 0]


def percentile(
    top: Floats, bottom: Floats, clusters: NDArray[np.int64], truth: float, rng: np.random.Generator
) -> Bounds:
    """The cluster bootstrap's percentiles."""
    low, high = np.percentile(_resampled(*sums(top, bottom, clusters), rng), [2.5, 97.5])
    return float(low), float(high)


def bca(
    top: Floats, bottom: Floats, clusters: NDArray[np.int64], truth: float, rng: np.random.Generator
) -> Bounds:
    """The cluster bootstrap, bias-corrected and accelerated."""
    tops, bottoms = sums(top, bottom, clusters)
    value = tops.sum() / bottoms.sum()
    drawn = np.sort(_resampled(tops, bottoms, rng))
    below = ((drawn < value).mean() + (drawn <= value).mean()) / 2
    bias = NORMAL.inv_cdf(min(max(below, 1e-3), 1 - 1e-3))
    left = (tops.sum() - tops) / (bottoms.sum() - bottoms)
    off = left.mean() - left
    scale = 6 * (off**2).sum() ** 1.5
    skew = (off**3).sum() / scale if scale > 0 else 0.0

    def bound(z: float) -> float:
        share = NORMAL.cdf(bias + (bias + z) / (1 - skew * (bias + z)))
        return float(np.quantile(drawn, share))

    return bound(-Z), bound(Z)


def wild(
    top: Floats, bottom: Floats, clusters: NDArray[np.int64], truth: float, rng: np.random.Generator
) -> Bounds:
    """The wild cluster bootstrap (Webb's weights) of the truth as the null: all or nothing."""
    tops, bottoms = sums(top, bottom, clusters)
    off = tops - truth * bottoms

    def statistic(deviations: Floats) -> Floats:  # [..., K] -> [...]
        shift = deviations.sum(-1, keepdims=True) / bottoms.sum()
        spread = np.sqrt(((deviations - shift * bottoms) ** 2).sum(-1))
        safe = np.where(spread > 0, spread, np.inf)
        found: Floats = np.abs(deviations.sum(-1)) / safe
        return found

    size = (DRAWS, len(off))
    weights = rng.choice((-1.0, 1.0), size) * rng.choice(WEBB, size)
    share = (statistic(off * weights) >= statistic(off) - 1e-12).mean()
    return (-math.inf, math.inf) if share > 0.05 else (math.nan, math.nan)


def _shifts(
    top: Floats, bottom: Floats, clusters: NDArray[np.int64]
) -> tuple[float, Floats, Floats]:
    """The estimate, each cluster's part of it, and its weight."""
    tops, bottoms = sums(top, bottom, clusters)
    value = float(tops.sum() / bottoms.sum())
    return value, (tops - value * bottoms) / bottoms.sum(), bottoms / bottoms.sum()


def t_plain(
    top: Floats, bottom: Floats, clusters: NDArray[np.int64], truth: float, rng: np.random.Generator
) -> Bounds:
    """Student's t with clusters - 1 degrees of freedom (CR1)."""
    value, parts, _ = _shifts(top, bottom, clusters)
    k = len(parts)
    half = quantile(k - 1) * math.sqrt(k / (k - 1) * (parts**2).sum())
    return value - half, value + half


def t_cr2(
    top: Floats, bottom: Floats, clusters: NDArray[np.int64], truth: float, rng: np.random.Generator
) -> Bounds:
    """CR2 with Satterthwaite's degrees of freedom for independent items (Bell and McCaffrey)."""
    value, parts, weights = _shifts(top, bottom, clusters)
    sizes = np.bincount(clusters).astype(np.float64)
    scaled = parts / np.sqrt(1 - weights)
    pull = np.eye(len(parts)) - np.outer(weights, np.ones(len(parts)))
    covered = pull @ np.diag(sizes) @ pull.T / np.sqrt(np.outer(1 - weights, 1 - weights))
    freedom = np.trace(covered) ** 2 / (covered**2).sum()
    half = quantile(max(1.0, float(freedom))) * math.sqrt((scaled**2).sum())
    return value - half, value + half


def t_cr3(
    top: Floats, bottom: Floats, clusters: NDArray[np.int64], truth: float, rng: np.random.Generator
) -> Bounds:
    """The jackknife (CR3), with clusters - 1 degrees of freedom."""
    value, parts, weights = _shifts(top, bottom, clusters)
    k = len(parts)
    half = quantile(k - 1) * math.sqrt((k - 1) / k * ((parts / (1 - weights)) ** 2).sum())
    return value - half, value + half


def t_log(
    top: Floats, bottom: Floats, clusters: NDArray[np.int64], truth: float, rng: np.random.Generator
) -> Bounds:
    """The jackknife's of the logarithm."""
    value, _, _ = _shifts(top, bottom, clusters)
    low, high = t_cr3(top, bottom, clusters, truth, rng)
    if value <= 0:
        return low, high
    half = (high - low) / 2 / value
    return value * math.exp(-half), value * math.exp(half)


def fieller(
    top: Floats, bottom: Floats, clusters: NDArray[np.int64], truth: float, rng: np.random.Generator
) -> Bounds:
    """Fieller's interval of a ratio of cluster totals, with Student's t: all or nothing."""
    tops, bottoms = sums(top, bottom, clusters)
    k = len(tops)
    off = tops - truth * bottoms
    reach = quantile(k - 1) * math.sqrt(k / (k - 1) * ((off - off.mean()) ** 2).sum())
    return (-math.inf, math.inf) if abs(off.sum()) <= reach else (math.nan, math.nan)


def wilson_alone(
    top: Floats, bottom: Floats, clusters: NDArray[np.int64], truth: float, rng: np.random.Generator
) -> Bounds:
    """Wilson's, as if items were independent."""
    return wilson(float(top.mean()), len(top), Z)


def wider_of_both(
    top: Floats, bottom: Floats, clusters: NDArray[np.int64], truth: float, rng: np.random.Generator
) -> Bounds:
    """The wider of Wilson's and the cluster bootstrap's: what was printed until now."""
    one, other = (each(top, bottom, clusters, truth, rng) for each in (wilson_alone, percentile))
    return min(one[0], other[0]), max(one[1], other[1])


def wilson_worth(
    top: Floats, bottom: Floats, clusters: NDArray[np.int64], truth: float, rng: np.random.Generator
) -> Bounds:
    """Wilson's of the effective number of items, with the normal quantile."""
    value, parts, _ = _shifts(top, bottom, clusters)
    k, alone = len(parts), value * (1 - value)
    variance = k / (k - 1) * float((parts**2).sum())
    return wilson(value, alone / variance if alone > 0 and variance > 0 else len(top), Z)


ANY: dict[str, Method] = {
    "bootstrap": percentile,
    "BCa": bca,
    "wild": wild,
    "t CR1": t_plain,
    "t CR2": t_cr2,
    "t CR3": t_cr3,
}
OF_RATES: dict[str, Method] = {
    **ANY,
    "Wilson": wilson_alone,
    "wider of both": wider_of_both,
    "Wilson n_eff": wilson_worth,
}
OF_RATIOS: dict[str, Method] = {**ANY, "log t": t_log, "Fieller": fieller}
