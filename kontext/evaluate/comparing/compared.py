"""The figures of a comparison: verdicts beside the first side, and rates on what all share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kontext.evaluate.categories import SCORED_CATEGORIES
from kontext.evaluate.comparing.sides import Side
from kontext.evaluate.paired import MARGIN, VERDICTS
from kontext.evaluate.statistics import Interval, cluster_rate
from kontext.evaluate.versions import ALL, MODELS, Versions, compare_runs

_HEADLINES = {
    "better": "{after} is better than {before}",
    "worse": "{after} is worse than {before}",
    "equivalent": "{after} and {before} are equivalent",
    "undecided": "{after} beside {before} is undecided",
    "": "{after} and {before} share nothing to compare",
}


@dataclass(frozen=True)
class Compared:
    """`versions[i]` is side i + 1 beside side 0; `rates[letter][model/category]`, of `shared`."""

    sides: list[Side]
    versions: list[Versions]
    shared: list[str]  # pairs that every side has
    rates: dict[str, dict[str, Interval]]
    margin: float

    @property
    def categories(self) -> list[str]:
        """Those that have shared items."""
        found = {name.partition("/")[2] for name in self.rates[self.sides[0].letter]}
        return [name for name in SCORED_CATEGORIES if name in found]

    @property
    def headline(self) -> str:
        """The verdict on the later sides in a few words: of the student, or the only model."""
        first = self.sides[0].letter
        said = []
        for side, versions in zip(self.sides[1:], self.versions, strict=True):
            found = next(iter(versions.differences.values()), None)
            how = _HEADLINES["" if found is None else found.verdict]
            said.append(how.format(after=side.letter, before=first))
        return ", ".join(said)

    @property
    def notes(self) -> list[str]:
        """What differs within a side beside its seeds."""
        return [side.note for side in self.sides if side.note]

    @property
    def verdicts(self) -> list[str]:
        """One line a later side."""
        return [
            f"{side.letter} beside {self.sides[0].letter}: {found.line}"
            for side, found in zip(self.sides[1:], self.versions, strict=True)
        ]

    @property
    def single(self) -> bool:
        """Whether a side is one training alone."""
        return any(len(side.runs) == 1 for side in self.sides)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "sides": [_side(side, self.shared) for side in self.sides],
            "headline": self.headline,
            "notes": self.notes,
            "margin": self.margin,
            "shared": len(self.shared),
            "compared": {
                side.letter: found.as_dict()
                for side, found in zip(self.sides[1:], self.versions, strict=True)
            },
            "rates": {
                letter: {name: rate.as_dict() for name, rate in rates.items()}
                for letter, rates in self.rates.items()
            },
        }


def compared(sides: Sequence[Side], margin: float = MARGIN) -> Compared:
    """Compare every later side with the first."""
    first, *later = sides
    tables = [[run.table for run in side.runs] for side in sides]
    versions = [compare_runs(tables[0], other, margin) for other in tables[1:]]
    shared = sorted(set.intersection(*(side.pairs for side in sides)))
    rates = {side.letter: _rates(side, shared) for side in (first, *later)}
    return Compared([first, *later], versions, shared, rates, margin)


def _rates(side: Side, pairs: Sequence[str]) -> dict[str, Interval]:
    """`model/category` -> the mean over items of the share of runs that succeed."""
    found = {}
    for model in MODELS:
        known = [pair for pair in pairs if (pair, model) in side.runs[0].rows]
        of = {pair: side.runs[0].rows[pair, model] for pair in known}
        share = {
            pair: float(np.mean([run.rows[pair, model]["success"] for run in side.runs]))
            for pair in known
        }
        for category in (ALL, *SCORED_CATEGORIES):
            own = [pair for pair in known if category in (ALL, of[pair]["category"])]
            if own:
                values = np.array([share[pair] for pair in own])
                found[f"{model}/{category}"] = cluster_rate(values, [of[p]["cluster"] for p in own])
    return found


def by_verdict(versions: Versions) -> dict[str, dict[str, list[str]]]:
    """By model and verdict the categories that have it."""
    found: dict[str, dict[str, list[str]]] = {}
    for name, each in versions.differences.items():
        model, _, category = name.partition("/")
        if category != ALL:
            found.setdefault(model, {}).setdefault(each.verdict, []).append(category)
    return {
        model: {verdict: own[verdict] for verdict in VERDICTS if verdict in own}
        for model, own in found.items()
    }


def _side(side: Side, shared: Sequence[str]) -> dict[str, Any]:
    return {
        "letter": side.letter,
        "items": len(side.pairs),
        "not_shared": len(side.pairs - set(shared)),
        "runs": [
            {
                "name": run.name,
                "evaluation": run.ref,
                "recipe": run.made.manifest.recipe,
                "made": run.made.manifest.created_at,
                "git_commit": run.made.manifest.git_commit,
                "noise_seed": run.noise_seed,
                "training_seeds": dict(run.seeds),
                "success_measure": run.measure[0],
                "inputs": run.made.manifest.inputs,
            }
            for run in side.runs
        ],
    }
