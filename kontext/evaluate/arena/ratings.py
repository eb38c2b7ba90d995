"""What the votes say: Bradley-Terry ratings with intervals, for each pool and question alone.

Intervals are those of the house (kontext.evaluate.statistics): components were sampled, not votes,
so the ratings are fitted anew without each of them, and the jackknife's variance of that has
Student's t. A rating is no ratio of sums, so the degrees of freedom are components less one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from kontext.evaluate.arena.gold import QUESTIONS, Rater, of_status, raters
from kontext.evaluate.arena.pairing import Matrix, strengths, wins
from kontext.evaluate.statistics import jackknifed
from kontext.store.votes import Vote

SCALE = 400 / math.log(10)  # points: 400 more are ten times the odds
CENTRE = 1000.0
ANCHOR = "teacher"  # has CENTRE, where it competes; else the mean of all editors has
_MANY = 100_000


@dataclass(frozen=True)
class Rating:
    """An editor's rating in points; its 95 % interval is nan with less than two components."""

    editor: str
    rating: float
    low: float
    high: float
    votes: int


@dataclass(frozen=True)
class Difference:
    """`first` minus `second` in points, and whether `first` is better, worse or undecided.

    `more` are the votes, asked as those before, that an undecided one would need in addition were
    its difference true; 0 where it is decided.
    """

    first: str
    second: str
    points: float
    low: float
    high: float
    votes: int
    verdict: str
    more: int


@dataclass(frozen=True)
class Ratings:
    """Of one pool and question: the best editor first."""

    question: str
    ratings: tuple[Rating, ...]
    differences: tuple[Difference, ...]
    items: int
    clusters: int
    agreement: float  # Krippendorff's alpha; nan where no two raters answered the same


@dataclass(frozen=True)
class PoolRatings:
    """All that one pool's votes say."""

    pool: str
    raters: tuple[Rater, ...]
    votes: int  # that are counted
    anchor: str  # empty: the mean of all editors
    left: float  # share of decided answers for the left side; far from 0.5 is a habit
    questions: tuple[Ratings, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: nan becomes None."""
        found = _plain(asdict(self))
        for row, rater in zip(found["raters"], self.raters, strict=True):
            row |= {"status": rater.status, "one_sided": rater.one_sided, "said": rater.said}
        return dict(found)


def rate(votes: Sequence[Vote], pool: str) -> PoolRatings:
    """Ratings by the votes of one pool. Only raters who pass the gold items are counted."""
    own = [vote for vote in votes if vote.pool == pool]
    counted = of_status(own, "counted")
    editors = sorted({name for vote in counted for name in vote.editors})
    chosen = [getattr(vote, question) for vote in counted for question in QUESTIONS]
    decided = chosen.count("left") + chosen.count("right")
    return PoolRatings(
        pool=pool,
        raters=tuple(raters(own)),
        votes=len(counted),
        anchor=ANCHOR if ANCHOR in editors else "",
        left=chosen.count("left") / decided if decided else math.nan,
        questions=tuple(_rated(counted, each, editors) for each in QUESTIONS) if counted else (),
    )


def _rated(votes: Sequence[Vote], question: str, editors: Sequence[str]) -> Ratings:
    answered = [vote for vote in votes if getattr(vote, question) != "skip"]
    groups: dict[str, list[Vote]] = {}
    for vote in answered:
        groups.setdefault(vote.component_id, []).append(vote)
    each = [wins(group, question, editors) for _, group in sorted(groups.items())]
    won = np.array(each).reshape(-1, len(editors), len(editors))
    total = won.sum(axis=0)
    points = _points(total)
    # [C, E]: without each component
    without = np.array([_points(total - own) for own in won]).reshape(-1, len(editors))
    if ANCHOR in editors:
        points = points - points[editors.index(ANCHOR)]
        without = without - without[:, [editors.index(ANCHOR)]]
    times = (total + total.T).sum(axis=1)
    rows = [
        Rating(name, own.value + CENTRE, own.low + CENTRE, own.high + CENTRE, round(times[i]))
        for i, name in enumerate(editors)
        for own in [jackknifed(float(points[i]), without[:, i], round(times[i]))]
    ]
    pairs = [
        _difference(editors, i, j, points, without, total)
        for i, j in combinations(np.argsort(-points).tolist(), 2)
    ]
    return Ratings(
        question=question,
        ratings=tuple(sorted(rows, key=lambda row: -row.rating)),
        differences=tuple(pairs),
        items=len({vote.pair_id for vote in answered}),
        clusters=len(groups),
        agreement=_agreement(answered, question),
    )


def _difference(
    editors: Sequence[str],
    i: int,
    j: int,
    points: Matrix,
    without: Matrix,
    total: Matrix,
) -> Difference:
    found = float(points[i] - points[j])
    votes = round(total[i, j] + total[j, i])
    own = jackknifed(found, without[:, i] - without[:, j], votes)
    half = own.high - found
    if abs(found) > half:
        verdict, more = "better" if found > 0 else "worse", 0
    else:  # the interval narrows with the root of the votes; nan and 0 tell nothing
        verdict, grow = "undecided", (half / found) ** 2 - 1 if found else math.inf
        more = min(_MANY, math.ceil(float(total.sum()) * grow)) if grow < _MANY else _MANY
    return Difference(editors[i], editors[j], found, own.low, own.high, votes, verdict, more)


def _points(won: Matrix) -> Matrix:
    return SCALE * strengths(won)


def _agreement(votes: Sequence[Vote], question: str) -> float:
    """Krippendorff's alpha (interval) over pairs on items that several raters answered.

    Each counts from both sides: which editor's name comes first says nothing.
    """
    import evalica
    import pandas as pd

    answers: dict[tuple[str, tuple[str, str]], dict[str, float]] = {}
    for vote in votes:
        unit = answers.setdefault((vote.pair_id, vote.editors), {})
        unit[vote.rater] = vote.share(question, vote.editors[0])
    shared = [unit for unit in answers.values() if len(unit) > 1]
    if not shared:
        return math.nan
    mirrored = [{rater: 1 - share for rater, share in unit.items()} for unit in shared]
    return float(evalica.alpha(pd.DataFrame([*shared, *mirrored]).T, distance="interval").alpha)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
