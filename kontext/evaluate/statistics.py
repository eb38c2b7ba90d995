"""Intervals for small benches of related items.

Items of one component (one concept, character or scene) are not independent, so the clusters are
what was sampled, not the items. Means and ratios have Student's t interval over clusters: the
jackknife's variance, and as many degrees of freedom as clusters of unequal size leave. Rates have
Wilson's score interval for the number of independent items that are worth as much as the related
ones. `python -m benchmarks.intervals` compares both with other methods.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kontext.evaluate.student_t import quantile

LEVEL = 0.95
SMALL_N = 30  # below this, a mean is shown with a warning
# Intra-cluster correlation that is assumed where all items agree, so that nothing tells it
ASSUMED_CORRELATION = 0.3
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A point estimate with its 95 % interval.

    `value` is nan when there is nothing to estimate; the bounds of a mean or a ratio are nan when
    there are fewer than two clusters.
    """

    value: float
    low: float
    high: float
    n: int  # items
    clusters: int
    method: str  # cluster-t, cluster-wilson, cluster-jackknife or undefined

    @property
    def small(self) -> bool:
        """True when there are too few items to trust the mean."""
        return self.n < SMALL_N

    def as_dict(self) -> dict[str, float | int | str | bool | None]:
        """JSON-ready: nan becomes None."""
        plain = {k: (None if v != v else v) for k, v in asdict(self).items()}
        return {**plain, "small": self.small}


@dataclass(frozen=True)
class Spread:
    """An estimate, its variance over resampled clusters, and what is known of that variance."""

    value: float
    variance: float  # nan with fewer than two clusters
    df: float  # degrees of freedom, at most clusters - 1; 0 with fewer than two
    n: int
    clusters: int
    crowding: float  # items of a random item's cluster, on average: n if there is one cluster

    def inflation(self, alone: float) -> float:
        """How many times `alone`, the variance of independent items, the variance is; at least 1.

        Where `alone` is 0 all items agree, and related items would too: then by the correlation
        that is assumed.
        """
        if alone > 0:
            return max(1.0, self.variance / alone)
        return 1 + max(self.crowding - 1, 0.0) * ASSUMED_CORRELATION


def spread(top: Floats, bottom: Floats, clusters: Sequence[str]) -> Spread:
    """sum(top) / sum(bottom) over items [N] of `clusters` [N], where both are finite.

    The variance is the jackknife's, which leaves one cluster out at a time. The value is nan where
    there are no items or the denominators sum to zero.
    """
    keep = np.isfinite(top) & np.isfinite(bottom)
    n = int(keep.sum())
    names = np.asarray(clusters, dtype=object)[keep].astype(str)
    unique, index = np.unique(names, return_inverse=True)
    count = len(unique)
    tops = np.bincount(index, weights=top[keep], minlength=count)
    bottoms = np.bincount(index, weights=bottom[keep], minlength=count)
    sizes = np.bincount(index, minlength=count).astype(np.float64)
    whole = bottoms.sum()
    crowding = float((sizes**2).sum()) / n if n else 0.0
    if not n or whole == 0:
        return Spread(math.nan, math.nan, 0.0, n, count, crowding)
    value = float(tops.sum() / whole)
    rest = whole - bottoms
    if count < 2 or (rest <= 0).any():
        return Spread(value, math.nan, 0.0, n, count, crowding)
    shifts = (tops - value * bottoms) / rest
    variance = float((count - 1) / count * (shifts**2).sum())
    freedom = min(_freedom(bottoms / whole, sizes), _freedom(bottoms / whole, sizes**2))
    return Spread(value, variance, min(max(freedom, 1.0), count - 1.0), n, count, crowding)


def crossed(items: Spread, runs: Spread) -> Spread:
    """The spread of outcomes that are related in two ways: by their items, and by their training.

    Both variances count in full, which is more than needed where trainings agree: of simulated
    comparisons without a difference (`python -m benchmarks.seed_intervals`) the intervals hold none
    in 93.8 to 99.5 %, with the items' alone in 73.8 to 99.0 %. The items' alone where there is one
    run, or none differs.
    """
    if not runs.df or not items.df or not runs.variance:
        return items
    variance = items.variance + runs.variance
    freedom = variance**2 / (items.variance**2 / items.df + runs.variance**2 / runs.df)
    return replace(items, variance=variance, df=max(freedom, 1.0))


def _freedom(weights: Floats, variances: Floats) -> float:
    """Satterthwaite's degrees of freedom of the jackknife's variance.

    The clusters' deviations have variances [K] and come from a mean with weights [K] that sum to
    one: their covariance is diag(v) - w v' - v w' + sum(v) w w', the variance their weighted sum of
    squares with weights s.
    """
    s = 1 / (1 - weights) ** 2
    total = float(variances.sum())
    diagonal = variances - 2 * weights * variances + total * weights**2
    low_rank = diagonal - variances
    ww, vv, wv = (
        float((s * a * b).sum())
        for a, b in ((weights, weights), (variances, variances), (weights, variances))
    )
    mean = float((s * diagonal).sum())
    squares = 2 * ww * vv + (total * ww) ** 2 + 2 * wv**2 - 4 * total * ww * wv
    squares += float((s**2 * (variances**2 + 2 * variances * low_rank)).sum())
    return mean**2 / squares


def cluster_ratio(top: Floats, bottom: Floats, clusters: Sequence[str]) -> Interval:
    """sum(top) / sum(bottom) [N] with Student's t interval over clusters.

    Items where either side is nan are left out (and not counted in n).
    """
    top, bottom = np.asarray(top, np.float64), np.asarray(bottom, np.float64)
    found = spread(top, bottom, clusters)
    if math.isnan(found.value) and found.n:
        return Interval(math.nan, math.nan, math.nan, found.n, found.clusters, "undefined")
    half = math.nan
    if found.df:
        half = quantile(found.df, LEVEL) * math.sqrt(found.variance)
    value = found.value
    return Interval(value, value - half, value + half, found.n, found.clusters, "cluster-t")


def jackknifed(value: float, without: Floats, n: int) -> Interval:
    """An estimate that is no ratio of sums, with Student's t interval over clusters.

    For figures such as a distance of distributions or an agreement beyond chance: the jackknife's
    variance around the estimate, and as many degrees of freedom as clusters less one.

    Args:
        without: [K] the estimate without each of the clusters; nan where nothing is left.
        n: items.
    """
    count = len(without)
    half = math.nan
    if count > 1 and np.isfinite(without).all():
        variance = (count - 1) / count * float(((without - value) ** 2).sum())
        half = quantile(count - 1, LEVEL) * math.sqrt(variance)
    return Interval(value, value - half, value + half, n, count, "cluster-jackknife")


def cluster_mean(values: Floats, clusters: Sequence[str]) -> Interval:
    """Mean over items [N] with Student's t interval over clusters. nan items are left out."""
    values = np.asarray(values, dtype=np.float64)
    return cluster_ratio(values, np.ones_like(values), clusters)


def cluster_rate(values: Floats, clusters: Sequence[str]) -> Interval:
    """Mean of items [N] in [0, 1] with a score interval. nan items are left out.

    Wilson's, for as many independent items as the related ones are worth, with Student's t in place
    of the normal quantile. Without items: nan between 0 and 1; with one cluster: between 0 and 1.
    """
    values = np.asarray(values, dtype=np.float64)
    found = spread(values, np.ones_like(values), clusters)
    if not found.df:
        return Interval(found.value, 0.0, 1.0, found.n, found.clusters, "cluster-wilson")
    rate = found.value
    worth = found.n / found.inflation(rate * (1 - rate) / found.n)
    low, high = wilson(rate, worth, quantile(found.df, LEVEL))
    return Interval(rate, low, high, found.n, found.clusters, "cluster-wilson")


def wilson(rate: float, n: float, z: float) -> tuple[float, float]:
    """Wilson's score bounds of a rate among n > 0 independent items, for the quantile z."""
    scale = 1.0 + z * z / n
    centre = (rate + z * z / (2 * n)) / scale
    half = z * math.sqrt(max(rate * (1 - rate), 0.0) / n + z * z / (4 * n * n)) / scale
    low = 0.0 if rate <= 0 else max(0.0, centre - half)
    return low, 1.0 if rate >= 1 else min(1.0, centre + half)
