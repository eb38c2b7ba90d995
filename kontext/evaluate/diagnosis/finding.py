"""What a check found, and how pictures are compared in all of them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kontext.evaluate.benches.held_out import Bench
from kontext.evaluate.pixels import Images, Picture, Values
from kontext.evaluate.statistics import Interval, cluster_ratio

ALL = "all"
UNKNOWN = "not measured"
# edits of contexts by instructions; the ids seed their noise
Ask = Callable[[Sequence[Picture], Sequence[str], Sequence[str]], Images]


@dataclass(frozen=True)
class Finding:
    """One check of one category, or of all."""

    check: str
    category: str
    measured: Interval
    verdict: str

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        own = {"check": self.check, "category": self.category, "verdict": self.verdict}
        return {**own, **self.measured.as_dict()}


def gaps(a: Iterable[Picture], b: Iterable[Picture]) -> Values:
    """Mean absolute difference of pictures, one by one, 0 to 1 [N]."""
    pairs = zip(a, b, strict=True)
    return np.array([np.abs(x.astype(np.float32) - y).mean() / 255 for x, y in pairs], np.float64)


def rows_of(bench: Bench, each: int) -> list[int]:
    """The first items of every category, in bench order, at most `each`."""
    return sorted(int(row) for name in bench.categories for row in bench.where(name)[:each])


def ratios(
    check: str,
    top: Values,
    bottom: Values,
    bench: Bench,
    rows: Sequence[int],
    verdict: Callable[[Interval], str],
) -> list[Finding]:
    """sum(top) / sum(bottom) [n] of the items `rows` [n]: of all of them and of each category."""
    items = [bench.items[row] for row in rows]
    found = []
    for name in (ALL, *bench.categories):
        own = [i for i, item in enumerate(items) if name in (ALL, item.category)]
        if own:
            measured = cluster_ratio(top[own], bottom[own], [items[i].cluster for i in own])
            found.append(Finding(check, name, measured, verdict(measured)))
    return found
