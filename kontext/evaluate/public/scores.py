"""From rows and verdicts to figures: columns of values, and their means by category.

Items of one base picture are one cluster. An item without a value in a column, because it
was refused, failed, or its judge said nothing of use, is left out of that column's means and
counted beside them.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kontext.evaluate.benches.public import BenchItem, Loaded
from kontext.evaluate.judges.base import Rubric
from kontext.evaluate.measures import MEASURES
from kontext.evaluate.pixels import Values
from kontext.evaluate.public.measuring import Measurements
from kontext.evaluate.statistics import Interval, cluster_mean, cluster_rate, cluster_ratio

CHANGES_RESULTS = False  # for users; no stage runs a public bench

MEAN, ALL = "mean", "all"  # of the categories' means, and of all items
FIT = 0.8  # share of canaries that a judge has to see through
_APART = 0.2  # of a score's range: further apart, judges disagree about an item
Verdict = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """One figure of the table. values: [N] in the set's order, nan where there is none."""

    name: str
    title: str
    unit: str
    better: str
    values: Values


def columns(
    loaded: Loaded,
    measured: Measurements,
    verdicts: Sequence[Verdict],
    rubric: Rubric | None,
    judge: str,
) -> list[Column]:
    """The judge's scores, then the measures that there are figures of."""
    found = []
    if rubric is not None:
        for name in rubric.printed:
            by_item = means(verdicts, judge, name)
            found.append(Column(name, rubric.scores[name], "", "higher", _values(loaded, by_item)))
    for name in loaded.bench.measures:
        own = MEASURES[name]
        if own.title in measured.unavailable:
            continue
        by_item = {
            item: value
            for item, values in measured.values.items()
            if (value := values.get(name)) is not None
        }
        values = _values(loaded, by_item)
        found.append(Column(name, own.title, own.unit, own.better, values))
    return found


def _values(loaded: Loaded, by_item: Mapping[str, float]) -> Values:
    return np.array([by_item.get(item.id, math.nan) for item in loaded.items], np.float64)


def means(
    verdicts: Sequence[Verdict], judge: str, score: str, canary: str = ""
) -> dict[str, float]:
    """Item -> mean of a judge's score over the passes that can be used."""
    found: dict[str, list[float]] = defaultdict(list)
    for one in verdicts:
        if one["judge"] == judge and one["canary"] == canary and one["status"] == "ok":
            found[one["item"]].append(one[score])
    return {item: float(np.mean(own)) for item, own in found.items()}


def by_category(loaded: Loaded, values: Values, unit: str = "") -> dict[str, Interval]:
    """Means of the categories that have items, of them all (`mean`), and of all items (`all`).

    Values in the unit % are shares in [0, 1]. A category none of whose items has a value leaves no
    mean of categories: it would be another.
    """
    items = loaded.items
    interval = cluster_rate if unit == "%" else cluster_mean
    found = {}
    weights = np.full(len(items), math.nan)
    for category in loaded.bench.counts:
        rows = np.array([i for i, item in enumerate(items) if item.category == category], np.int64)
        if not len(rows):
            continue
        clusters = [items[i].base for i in rows]
        found[category] = interval(values[rows], clusters)
        known = np.isfinite(values[rows]).sum()
        weights[rows] = 1 / known if known else math.nan
    if any(not own.n for own in found.values()):
        weights[:] = math.nan
    every = [item.base for item in items]
    found[MEAN] = cluster_ratio(values * weights, weights, every)
    found[ALL] = interval(values, every)
    return found


def outcomes(
    items: Sequence[BenchItem], rows: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, int]]:
    """Category -> outcome -> number of items; and of all."""
    found: dict[str, dict[str, int]] = {}
    for item in items:
        outcome = rows[item.id]["outcome"]
        for name in (item.category, ALL):
            counts = found.setdefault(name, {})
            counts[outcome] = counts.get(outcome, 0) + 1
    return found


def judge_card(rubric: Rubric, verdicts: Sequence[Verdict], judge: str) -> dict[str, Any]:
    """How far a judge can be believed: what it left out, its spread, and its canaries."""
    own = [one for one in verdicts if one["judge"] == judge]
    real = [one for one in own if not one["canary"]]
    unusable: dict[str, int] = {}
    for one in real:
        if one["status"] != "ok":
            unusable[one["status"]] = unusable.get(one["status"], 0) + 1
    by_item: dict[str, list[float]] = defaultdict(list)
    for one in real:
        if one["status"] == "ok":
            by_item[one["item"]].append(one[rubric.main])
    spreads = [float(np.std(values, ddof=1)) for values in by_item.values() if len(values) > 1]
    canaries = {}
    for kind, right in (("identity", rubric.low), ("oracle", rubric.high)):
        seen = means(own, judge, rubric.success, kind)
        asked = len({one["item"] for one in own if one["canary"] == kind})
        if asked:
            passed = sum(map(right, seen.values()))
            canaries[kind] = {"asked": asked, "answered": len(seen), "passed": passed}
    fit = all(c["passed"] >= FIT * c["asked"] for c in canaries.values())
    return {
        "judge": judge,
        "verdicts": len(real),
        "unusable": dict(sorted(unusable.items())),
        "items": len(by_item),
        "spread_over_passes": float(np.mean(spreads)) if spreads else None,
        "canaries": canaries,
        "fit": fit if canaries else None,
    }


def disagreement(
    rubric: Rubric, verdicts: Sequence[Verdict], judges: Sequence[str]
) -> dict[str, Any] | None:
    """Of the first two judges on the main score, over the items that both have scored."""
    if len(judges) < 2:
        return None
    a, b = (means(verdicts, judge, rubric.main) for judge in judges[:2])
    both = sorted(a.keys() & b.keys())
    x, y = (np.array([one[item] for item in both]) for one in (a, b))
    if not both:
        return {"judges": list(judges[:2]), "items": 0}
    apart = np.abs(x - y)
    return {
        "judges": list(judges[:2]),
        "items": len(both),
        "mean_difference": float((x - y).mean()),
        "mean_absolute_difference": float(apart.mean()),
        "far_apart": float((apart > _APART * (rubric.most - rubric.least)).mean()),
        "rank_correlation": _spearman(x, y),
    }


def _spearman(x: Values, y: Values) -> float | None:
    """Rank correlation, ties at their mean rank; None where one side is constant."""
    a, b = _ranks(x), _ranks(y)
    if len(x) < 2 or not a.std() or not b.std():
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _ranks(values: Values) -> Values:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[place])
