"""Intervals for small benches: Wilson for rates, cluster bootstrap for means and ratios.

Items of one component (one concept, character or scene) are not independent, so resampling items
would give intervals that are too narrow: components are resampled instead.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054  # 97.5th percentile of the normal distribution
SMALL_N = 30  # below this, a mean is shown with a warning


@dataclass(frozen=True)
class Interval:
    """A point estimate with its 95 % interval. `value` is nan when there is nothing to estimate."""

    value: float
    low: float
    high: float
    n: int  # items
    clusters: int
    method: str  # wilson, cluster-bootstrap, or both where the wider one is taken

    @property
    def small(self) -> bool:
        """True when there are too few items to trust the mean."""
        return self.n < SMALL_N

    def as_dict(self) -> dict[str, float | int | str | bool | None]:
        """JSON-ready: nan becomes None."""
        plain = {k: (None if v != v else v) for k, v in asdict(self).items()}
        return {**plain, "small": self.small}


def wilson(successes: int, n: int, clusters: int = 0) -> Interval:
    """Wilson score interval of a rate. With n = 0: nan between 0 and 1."""
    if n == 0:
        return Interval(math.nan, 0.0, 1.0, 0, 0, "wilson")
    assert 0 <= successes <= n
    rate, z = successes / n, Z95
    scale = 1.0 + z * z / n
    centre = (rate + z * z / (2 * n)) / scale
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / scale
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(rate, low, high, n, clusters or n, "wilson")


def wider(a: Interval, b: Interval) -> Interval:
    """`a`, with its interval widened to cover that of `b` too. nan bounds are ignored."""
    if math.isnan(b.low) or math.isnan(b.high):
        return a
    low, high = min(a.low, b.low), max(a.high, b.high)
    return replace(a, low=low, high=high, method=f"{a.method}+{b.method}")


def cluster_ratio(
    numerator: NDArray[np.float64],
    denominator: NDArray[np.float64],
    clusters: Sequence[str],
    draws: int,
    seed: int = 0,
) -> Interval:
    """sum(numerator) / sum(denominator) [N] with a percentile interval over resampled clusters.

    Items where either side is nan are left out (and not counted in n). The interval is the point
    itself when there is one cluster only: nothing can be resampled.
    """
    num = np.asarray(numerator, dtype=np.float64)
    den = np.asarray(denominator, dtype=np.float64)
    keep = np.isfinite(num) & np.isfinite(den)
    names = np.asarray(clusters, dtype=object)[keep]
    if not keep.any():
        return Interval(math.nan, math.nan, math.nan, 0, 0, "cluster-bootstrap")
    unique, index = np.unique(names.astype(str), return_inverse=True)
    tops = np.bincount(index, weights=num[keep], minlength=len(unique))
    bottoms = np.bincount(index, weights=den[keep], minlength=len(unique))
    if bottoms.sum() == 0:
        return Interval(math.nan, math.nan, math.nan, int(keep.sum()), len(unique), "undefined")
    point = float(tops.sum() / bottoms.sum())
    counts = _resamples(len(unique), draws, seed)
    drawn_bottom = counts @ bottoms
    drawn = (counts @ tops)[drawn_bottom > 0] / drawn_bottom[drawn_bottom > 0]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(
        point, float(low), float(high), int(keep.sum()), len(unique), "cluster-bootstrap"
    )


@lru_cache(maxsize=64)  # all editors and metrics of a category share their resamples
def _resamples(clusters: int, draws: int, seed: int) -> NDArray[np.float64]:
    """How often each cluster is in each resample [draws, clusters]."""
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=draws)
    return drawn.astype(np.float64)


def cluster_mean(
    values: NDArray[np.float64], clusters: Sequence[str], draws: int, seed: int = 0
) -> Interval:
    """Mean over items [N] with a cluster-bootstrap interval. nan items are left out."""
    values = np.asarray(values, dtype=np.float64)
    return cluster_ratio(values, np.ones_like(values), clusters, draws, seed)
