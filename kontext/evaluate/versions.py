"""A later evaluation beside an earlier one, on the items that both have.

One comparison serves the nightly evaluation, the report and the gate of publish.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from kontext.evaluate.categories import SCORED_CATEGORIES
from kontext.evaluate.paired import MARGIN, Difference, difference, family
from kontext.evaluate.statistics import LEVEL, Floats

MODELS = ("student", "teacher")
ALL = "all"  # a model's items of every category together
_COLUMNS = ("pair_id", "category", "editor", "cluster", "success")


@dataclass(frozen=True)
class Versions:
    """Differences by figure, `student` or `teacher` and a category or `all`, of the same items.

    `items` are those in common, of `before` and `after` items; `missing` are the earlier
    categories without any; `why` says why nothing is compared, `first` that nothing was there.
    """

    differences: Mapping[str, Difference] = field(default_factory=dict)
    items: int = 0
    before: int = 0
    after: int = 0
    missing: tuple[str, ...] = ()
    why: str = ""
    first: bool = False

    @property
    def fell(self) -> dict[str, Difference]:
        """The figures that are worse by more than the margin."""
        return {name: each for name, each in self.differences.items() if each.fell}

    @property
    def lower(self) -> dict[str, Difference]:
        """Those that fell by more than the margin in what was seen, which may be chance."""
        found = self.differences.items()
        return {n: d for n, d in found if d.value < -d.margin and d.verdict == "undecided"}

    @property
    def doubt(self) -> str:
        """What was not compared, or fell without being told from chance; empty if nothing."""
        if not self.differences:
            return "" if self.first else self.line
        said = []
        if self.lower:
            named = ", ".join(_told(*each) for each in self.lower.items())
            said.append(f"lower beyond the margin, not told from chance: {named}")
        if self.missing:
            said.append(f"no item in common: {', '.join(self.missing)}")
        return "; ".join(said)

    @property
    def line(self) -> str:
        """The verdict in one line."""
        if not self.differences:
            return f"not compared: {self.why}"
        found = next(iter(self.differences.values()))  # the student's, or both models', of all
        low, high = 100 * found.interval.low, 100 * found.interval.high
        said = (
            f"{found.words} ({100 * found.value:+.1f} points, 95 % interval {low:+.1f} to "
            f"{high:+.1f}, on {self.items:,} items in common, of {self.before:,} before)"
        )
        named = [_told(name, each) for name, each in self.fell.items()]
        said += f"; worse beyond the margin: {', '.join(named)}" if named else ""
        return said + (f"; {self.doubt}" if self.doubt else "")

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        plain = ("items", "before", "after", "why", "line", "doubt")
        own = {name: getattr(self, name) for name in plain}
        rows = {name: each.as_dict() for name, each in self.differences.items()}
        named = {name: list(getattr(self, name)) for name in ("fell", "lower", "missing")}
        return {**own, "differences": rows, **named}


def _told(name: str, found: Difference) -> str:
    return f"{name} {found.before:.0%} → {found.after:.0%}"


def compare(before: pa.Table, after: pa.Table, margin: float = MARGIN) -> Versions:
    """Compare two models by the success of their evaluated items (`items.parquet`).

    Related items count as the clusters that they are. Items are the same by their pair; clusters
    and categories are the later table's. An alarm is of one side: each of better and worse may be
    false in 5 %.
    """
    return compare_runs([before], [after], margin)


def compare_runs(
    before: Sequence[pa.Table], after: Sequence[pa.Table], margin: float = MARGIN
) -> Versions:
    """Compare two recipes by several trainings of each: one table a training.

    The k-th of one stands beside the k-th of the other; a single one beside each. Items are those
    of all tables, and trainings count as a sample of others, as clusters do.
    """
    many = max(len(before), len(after))
    sides = [list(side) * (many if len(side) == 1 else 1) for side in (before, after)]
    shared = set.intersection(*(set(table["pair_id"].to_pylist()) for table in chain(*sides)))
    both = [_Both.of(one, other, shared) for one, other in zip(*sides, strict=True)]
    found: dict[str, Difference] = {}
    for model in MODELS:
        for category, pairs in both[0].of_categories(model):
            keys = [(pair, model) for pair in pairs]
            outcomes = zip(*(each.outcomes(keys) for each in both), strict=True)
            one, other = (np.concatenate(side) for side in outcomes)
            clusters = [both[0].after[key]["cluster"] for key in keys] * many
            runs = [str(run) for run in range(many) for _ in keys]
            found[f"{model}/{category}"] = difference(one, other, clusters, margin, runs)
    return both[0].versions(found)


def compare_again(before: pa.Table, after: pa.Table, margin: float = MARGIN) -> Versions:
    """Compare two evaluations of the same model by the same settings.

    The items are no sample of others here: only noise can tell one evaluation from the next, and
    every item has its own. So each item is a cluster, of the student's outcome and the teacher's,
    and both count together, as `both/...`.
    """
    found: dict[str, Difference] = {}
    both = _Both.of(before, after)
    for category, pairs in both.of_categories(MODELS[0]):
        rows = [(pair, model) for pair in pairs for model in MODELS if (pair, model) in both.after]
        clusters = [pair for pair, _ in rows]
        found[f"both/{category}"] = difference(*both.outcomes(rows), clusters, margin)
    return both.versions(found)


Rows = Mapping[tuple[str, str], Mapping[str, Any]]  # by pair and editor


@dataclass(frozen=True)
class _Both:
    """The models' rows of two tables, of the pairs that both have."""

    before: Rows
    after: Rows
    counts: tuple[int, int]
    missing: tuple[str, ...]  # categories of the earlier table

    @classmethod
    def of(cls, before: pa.Table, after: pa.Table, of: Collection[str] | None = None) -> "_Both":
        one, other = _items(before), _items(after)
        common = sorted(k for k in set(one) & set(other) if of is None or k[0] in of)
        counts = (_pairs(one), _pairs(other))
        seen = {one[key]["category"] for key in common}
        missing = tuple(sorted({row["category"] for row in one.values()} - seen))
        first, later = ({key: rows[key] for key in common} for rows in (one, other))
        return cls(first, later, counts, missing)

    def of_categories(self, model: str) -> list[tuple[str, list[str]]]:
        """`all` and every category that has items of a model, with their pairs."""
        own = [pair for pair, editor in self.after if editor == model]
        found = [(ALL, own)]
        for category in SCORED_CATEGORIES:
            found.append(
                (category, [p for p in own if self.after[p, model]["category"] == category])
            )
        return [(category, pairs) for category, pairs in found if pairs]

    def outcomes(self, keys: list[tuple[str, str]]) -> tuple[Floats, Floats]:
        """0 or 1 by row, in both tables."""
        sides = (self.before, self.after)
        one, other = (np.array([rows[k]["success"] for k in keys], np.float64) for rows in sides)
        return one, other

    def versions(self, found: Mapping[str, Difference]) -> Versions:
        """The differences, judged together."""
        why = "" if found else "no item is in both evaluations"
        judged = family(found, 2 * (1 - LEVEL))
        return Versions(judged, _pairs(self.after), *self.counts, self.missing, why)


def _pairs(rows: Rows) -> int:
    return sum(model == MODELS[0] for _, model in rows)


def _items(table: pa.Table) -> dict[tuple[str, str], dict[str, Any]]:
    rows = table.select(_COLUMNS).to_pylist()
    return {(row["pair_id"], row["editor"]): row for row in rows if row["editor"] in MODELS}
