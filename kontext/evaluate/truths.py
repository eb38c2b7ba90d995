"""Is success a fair judge? What it says of editors whose truth is known, per relation.

The target through the autoencoder must pass, a wrong edit must not. Where that does not hold, the
relation's figures say little, and the report says so beside them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kontext.evaluate.benches.held_out import Bench
from kontext.evaluate.metrics import Measured
from kontext.evaluate.references import EDITORS
from kontext.evaluate.statistics import Interval, cluster_rate
from schemas.tables import CATEGORIES

MUST_PASS, MUST_FAIL = 0.95, 0.20  # least and greatest rates


@dataclass(frozen=True)
class Truth:
    """The rate at which an editor with a known truth passes in one relation."""

    editor: str
    category: str
    relation: str
    rate: Interval

    @property
    def named(self) -> str:
        """The relation, with its category where that is scored apart."""
        apart = self.category not in CATEGORIES
        return f"{self.relation} ({self.category})" if apart else self.relation

    @property
    def must(self) -> str:
        """pass or fail."""
        return EDITORS[self.editor].must

    @property
    def holds(self) -> bool:
        """Right edits pass in 95 % or more, wrong ones in 20 % or less."""
        value = self.rate.value
        return value >= MUST_PASS if self.must == "pass" else value <= MUST_FAIL

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        own = {name: getattr(self, name) for name in ("editor", "category", "relation")}
        return {**own, "must": self.must, "holds": self.holds, **self.rate.as_dict()}


def known_truths(
    bench: Bench, per_item: Mapping[str, Mapping[str, Measured]]
) -> dict[tuple[str, str], list[Truth]]:
    """(category, relation) -> one truth for each editor that has one, in EDITORS' order."""
    rows: dict[tuple[str, str], list[int]] = {}
    for i, item in enumerate(bench.items):
        rows.setdefault((item.category, item.relation), []).append(i)

    def rate(editor: str, of: Sequence[int]) -> Interval:
        passed = per_item[editor]["success"].top[list(of)]
        return cluster_rate(passed, [bench.items[i].cluster for i in of])

    return {
        place: [
            Truth(editor, *place, rate(editor, of)) for editor in per_item if EDITORS[editor].must
        ]
        for place, of in sorted(rows.items())
    }


def best_false(table: Mapping[str, Mapping[str, Mapping[str, Interval]]], category: str) -> str:
    """The wrong editor that passes most often in a category; empty where none was scored."""
    wrong = [name for name in table if EDITORS[name].must == "fail"]
    return max(wrong, key=lambda name: table[name][category]["success"].value, default="")


def truths_line(truths: Mapping[tuple[str, str], Sequence[Truth]]) -> str:
    """One line: how many of the known truths hold, and in which relations some do not."""
    found = [truth for row in truths.values() for truth in row]
    broken = [truth for truth in found if not truth.holds]
    if not broken:
        return f"success judges all {len(found)} known truths rightly"
    named = ", ".join(dict.fromkeys(truth.named for truth in broken))
    return (
        f"success judges {len(found) - len(broken)} of {len(found)} known truths rightly; it is "
        f"not to be trusted alone for: {named}"
    )
