"""Which items are shown: what the later side gained, what it lost, what is disputed, and a sample.

An item is disputed where a side does not agree with itself: student and teacher, or its seeds.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kontext.data.sources.stable import stable_hash
from kontext.evaluate.comparing.sides import Row, Side
from kontext.evaluate.versions import MODELS

KINDS = {
    "gains": "Best gains",
    "losses": "Worst losses",
    "disputed": "Disputed",
    "chance": "By chance",
}
EACH = 4  # items of a kind and category


@dataclass(frozen=True)
class Shown:
    """One item beside itself. `run` is which training of either side is shown."""

    pair: str
    run: int
    kind: str


@dataclass(frozen=True)
class Outcomes:
    """An item's rows of the student, one a run and side."""

    pair: str
    before: Sequence[Row]
    after: Sequence[Row]
    disagreement: float  # share of outcomes that are not as most of their side's, at most 1/2

    def change(self, run: int) -> int:
        """1: gained, -1: lost, 0: the same."""
        return int(self.after[run]["success"]) - int(self.before[run]["success"])

    def nearer(self, run: int) -> float:
        """How much nearer the later side's edit is to the target, in the context's distance."""
        sides = (self.before[run], self.after[run])
        before, after = (float(row["mae_ratio"] or 0.0) for row in sides)
        return before - after

    @property
    def runs(self) -> range:
        """The trainings of either side."""
        return range(len(self.after))


def chosen(first: Side, later: Side, category: str) -> dict[str, list[Shown]]:
    """By kind, in KINDS' order, the items of a category that are shown; no item twice."""
    rows = [one for one in _outcomes(first, later) if one.after[0]["category"] == category]
    found: dict[str, list[Shown]] = {}
    taken: set[str] = set()
    for kind in KINDS:
        found[kind] = [one for one in _of_kind(kind, rows) if one.pair not in taken][:EACH]
        taken |= {one.pair for one in found[kind]}
    return found


def _of_kind(kind: str, rows: Sequence[Outcomes]) -> list[Shown]:
    """All of a kind, the first of them the most so."""
    if kind in ("gains", "losses"):
        sign = 1 if kind == "gains" else -1
        every = [(one, run) for one in rows for run in one.runs if sign * one.change(run) > 0]
        every.sort(key=lambda found: (-sign * found[0].nearer(found[1]), found[0].pair))
        best: dict[str, int] = {}
        for one, run in every:
            best.setdefault(one.pair, run)
        return [Shown(pair, run, kind) for pair, run in best.items()]
    if kind == "disputed":
        apart = sorted((one for one in rows if one.disagreement), key=_most_disputed)
        return [Shown(one.pair, 0, kind) for one in apart]
    by_chance = sorted(rows, key=lambda one: stable_hash("compare", one.pair))
    return [Shown(one.pair, 0, kind) for one in by_chance]


def _most_disputed(one: Outcomes) -> tuple[float, str]:
    return -one.disagreement, one.pair


def _outcomes(first: Side, later: Side) -> Iterable[Outcomes]:
    student = MODELS[0]
    many = max(len(first.runs), len(later.runs))
    for pair in sorted(first.pairs & later.pairs):
        before, after = (
            [run.rows[pair, student] for run in side.runs] * (many if len(side.runs) == 1 else 1)
            for side in (first, later)
        )
        apart = max(_disagreement(side, pair) for side in (first, later))
        yield Outcomes(pair, before, after, apart)


def _disagreement(side: Side, pair: str) -> float:
    keys = [(pair, model) for model in MODELS]
    outcomes = [
        bool(run.rows[key]["success"]) for run in side.runs for key in keys if key in run.rows
    ]
    share = sum(outcomes) / len(outcomes)
    return min(share, 1 - share)
