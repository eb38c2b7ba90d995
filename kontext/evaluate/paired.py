"""Two versions on the same items: the difference, its interval, and a verdict.

The interval of a difference of rates is Tango's score interval for paired outcomes (T. Tango,
"Equivalence test and confidence interval for the difference in proportions for the paired-sample
design", Statistics in Medicine 17, 1998), for as many independent items as the related ones are
worth, with Student's t in place of the normal quantile. It is not empty where few outcomes, or
none, differ. Where a recipe was trained several times it is for further trainings too. Verdicts
over several figures hold the rate of false ones (Benjamini and Hochberg).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from kontext.evaluate.statistics import LEVEL, Floats, Interval, Spread, crossed, spread
from kontext.evaluate.student_t import quantile, two_sided

POWER = 0.8  # of a test, at the least difference that counts as detectable
MARGIN = 0.05  # differences of rates within it count as none
MANY_SEEDS = 20  # more are not counted
VERDICTS = ("better", "worse", "equivalent", "undecided")


@dataclass(frozen=True)
class Difference:
    """A rate of the later version less that of the earlier one, on the same items.

    `p` is of the hypothesis that there is no difference; `q` is p with the other figures of a
    family in view, and `verdict` says better or worse where it is below `allowed`. `narrow` are the
    bounds of the 90 % interval: two one-sided tests at 5 % of whether the difference is within the
    margin.
    """

    before: float
    after: float
    interval: Interval
    narrow: tuple[float, float]
    p: float
    q: float
    detectable: float  # least true difference that is found with a probability of 80 %
    margin: float
    lost: int  # items that only the earlier version got right
    gained: int
    allowed: float = 1 - LEVEL  # share of false ones, of the verdicts better and worse
    runs: int = 1  # trainings of each version: outcomes are of every item and run

    @property
    def value(self) -> float:
        """after - before."""
        return self.interval.value

    @property
    def verdict(self) -> str:
        """better, worse, equivalent or undecided.

        A difference can be told from none and yet be within the margin: that is equivalent.
        """
        low, high = self.narrow
        if low > -self.margin and high < self.margin:
            return "equivalent"
        if self.q < self.allowed:
            return "better" if self.value > 0 else "worse"
        return "undecided"

    @property
    def fell(self) -> bool:
        """Worse, and by more than the margin."""
        return self.verdict == "worse" and self.value < -self.margin

    @property
    def more(self) -> int:
        """Items that are missing, of as many more clusters, until the verdict is not undecided.

        As many as make the 90 % interval of no difference as narrow as the margin.
        """
        half = (self.narrow[1] - self.narrow[0]) / 2
        if self.verdict != "undecided" or math.isnan(half):
            return 0
        items = self.interval.n / self.runs
        return max(1, math.ceil(items * ((half / self.margin) ** 2 - 1)))

    @property
    def words(self) -> str:
        """The verdict for people, with what is missing where it is undecided."""
        if not self.more:
            return self.verdict
        if self.runs == 1:
            return f"{self.verdict}: {self.more:,} more items needed"
        seeds = math.ceil(self.runs * self.more * self.runs / self.interval.n)
        count = f"{seeds} more seeds" if seeds <= MANY_SEEDS else f"over {MANY_SEEDS} seeds"
        return f"{self.verdict}: {count} needed, and as many times the items"

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        own = {k: v for k, v in asdict(self).items() if k not in ("interval", "narrow")}
        judged = {"verdict": self.verdict, "more": self.more, "words": self.words}
        return {**own, **judged, **self.interval.as_dict()}


def difference(
    before: Floats,
    after: Floats,
    clusters: Sequence[str],
    margin: float = MARGIN,
    runs: Sequence[str] = (),
) -> Difference:
    """Compare outcomes [N] of two versions on the same items, 0 or 1 each; N > 0.

    Args:
        runs: [N], of which training of either version the outcomes are, where there are several.
    """
    before, after = np.asarray(before, np.float64), np.asarray(after, np.float64)
    change = after - before
    assert len(change) and np.isin(change, (-1.0, 0.0, 1.0)).all()
    found, count = spread(change, np.ones_like(change), clusters), len(set(runs)) or 1
    if count > 1:
        found = crossed(found, spread(change, np.ones_like(change), runs))
    lost, gained = int((change < 0).sum()), int((change > 0).sum())
    rates = (float(before.mean()), float(after.mean()))
    if not found.df:
        whole = Interval(found.value, -1.0, 1.0, found.n, found.clusters, "cluster-tango")
        nothing = Difference(*rates, whole, (-1.0, 1.0), 1.0, 1.0, 1.0, margin, lost, gained)
        return replace(nothing, runs=count)
    alone = ((lost + gained) / found.n - found.value**2) / found.n
    worth = 1 / found.inflation(alone)
    score = _score(lost, gained, found.n, worth)
    interval = _bounds(score, found, LEVEL)
    p = two_sided(score(0.0), found.df)
    return Difference(
        *rates,
        Interval(found.value, *interval, found.n, found.clusters, "cluster-tango"),
        _bounds(score, found, 2 * LEVEL - 1),
        p=p,
        q=p,
        detectable=_detectable(interval, found),
        margin=margin,
        lost=lost,
        gained=gained,
        runs=count,
    )


def _detectable(interval: tuple[float, float], found: Spread) -> float:
    """(t of the level + t of the power) standard errors."""
    wanted = quantile(found.df, LEVEL)
    error = (interval[1] - interval[0]) / 2 / wanted
    return min(1.0, (wanted + quantile(found.df, 2 * POWER - 1)) * error)


def _score(lost: int, gained: int, n: int, worth: float) -> Callable[[float], float]:
    """Tango's statistic as a function of the true difference: falls from above 0 to below it.

    With the variance that the most likely rates of that difference give. Of n items as related as
    to be worth `worth` * n independent ones.
    """

    def score(delta: float) -> float:
        b = -gained - lost + (2 * n - gained + lost) * delta
        c = -lost * delta * (1 - delta)
        only = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
        variance = n * (2 * only + delta * (1 - delta))
        off = gained - lost - n * delta
        if variance <= 1e-12:
            return 0.0 if abs(off) < 1e-9 else math.copysign(math.inf, off)
        return off / math.sqrt(variance) * math.sqrt(worth)

    return score


def _bounds(score: Callable[[float], float], found: Spread, level: float) -> tuple[float, float]:
    """The differences at which the score is as far off as the quantile of a level."""
    limit = quantile(found.df, level)

    def root(inside: float, outside: float) -> float:
        if abs(score(outside)) <= limit:
            return outside
        for _ in range(40):
            middle = (inside + outside) / 2
            if abs(score(middle)) <= limit:
                inside = middle
            else:
                outside = middle
        return (inside + outside) / 2

    return root(found.value, -1.0), root(found.value, 1.0)


def family(found: Mapping[str, Difference], allowed: float = 1 - LEVEL) -> dict[str, Difference]:
    """The differences with q in view of all of them, by Benjamini and Hochberg."""
    ordered = sorted(found, key=lambda name: found[name].p, reverse=True)
    adjusted, least = dict[str, float](), 1.0
    for rank, name in zip(range(len(ordered), 0, -1), ordered, strict=True):
        least = min(least, found[name].p * len(ordered) / rank)
        adjusted[name] = least
    return {name: replace(each, q=adjusted[name], allowed=allowed) for name, each in found.items()}
