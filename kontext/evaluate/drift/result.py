"""Curves, half-lives and differences of scripts, with the intervals of the bench."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from kontext.evaluate.drift.chains import AGAIN, AGAINST_DRIFT, CHAINS, Chain, run_chains
from kontext.evaluate.drift.measures import MEASURES, Features, Found, measure, truths
from kontext.evaluate.drift.scripts import TURNS, Scripts
from kontext.evaluate.metrics.base import Measured
from kontext.evaluate.models import TrainedModels
from kontext.evaluate.pixels import in_order
from kontext.evaluate.statistics import Interval, cluster_rate, cluster_ratio

KINDS = {"edit": "edits", "keep": "asked for nothing", "undo": "taken back"}
HALVES = {"holds": "edits", "rest": "the rest"}  # what has a half-life
COMPARED = ("success", "error", "features", "colour", "detail")


@dataclass(frozen=True)
class HalfLife:
    """The first turn after which at most half of the scripts hold; None: not within the turns.

    low, high: the first turn at which the interval of the share holds a half, and the first at
    which all of it is below. `measured` is false where no script has the measure.
    """

    turn: int | None
    low: int | None
    high: int | None
    measured: bool = True

    @classmethod
    def of(cls, curve: Sequence[Interval]) -> HalfLife:
        """Of shares by turn."""

        def first(values: Sequence[float]) -> int | None:
            return next((turn for turn, one in enumerate(values, 1) if one <= 0.5), None)

        known = [one for one in curve if one.n]
        turn, low, high = (
            first([getattr(one, name) for one in known]) for name in ("value", "low", "high")
        )
        return cls(turn, low, high, bool(known))

    def __str__(self) -> str:
        """`3 (2 to > 8)`: turns, with the 95 % interval."""
        if not self.measured:
            return "not measured"
        own, low, high = (f"> {TURNS}" if x is None else str(x) for x in self.sides)
        return own if own == low == high else f"{own} ({low} to {high})"

    @property
    def sides(self) -> tuple[int | None, int | None, int | None]:
        """Turn, low and high."""
        return self.turn, self.low, self.high


@dataclass(frozen=True)
class Drift:
    """What the editors of CHAINS made of the scripts: `measured[editor][measure][turn]`, [N]."""

    scripts: Scripts
    measured: Mapping[str, Found] = field(default_factory=dict)
    outputs: Mapping[str, Chain] = field(default_factory=dict)

    @cached_property
    def clusters(self) -> list[str]:
        """Of the scripts."""
        return [script.cluster for script in self.scripts.scripts]

    def curve(self, editor: str, name: str) -> list[Interval]:
        """A measure by turn."""
        return [_interval(name, own, self.clusters) for own in self.measured[editor][name]]

    def half_life(self, editor: str, name: str) -> HalfLife:
        """In turns, of one of HALVES."""
        return HalfLife.of(self.curve(editor, name))

    def rate(self, editor: str, kind: str) -> Interval:
        """Success of the turns of a kind."""
        flags = np.array([own.top for own in self.measured[editor]["success"]])  # [T, N]
        kinds = np.array([[turn.kind for turn in s.turns] for s in self.scripts.scripts]).T
        clusters = np.broadcast_to(np.array(self.clusters, object), flags.shape)
        chosen = kinds == kind
        return cluster_rate(flags[chosen], clusters[chosen].tolist())

    def gain(self, editor: str, name: str) -> Interval:
        """A measure minus that of AGAIN, script by script: success over all turns, else last."""
        own, other = self.measured[editor][name], self.measured[AGAIN][name]
        if name == "success":
            each = np.mean([a.top - b.top for a, b in zip(own, other, strict=True)], axis=0)
            return cluster_ratio(each, np.ones_like(each), self.clusters)
        return cluster_ratio(own[-1].top - other[-1].top, own[-1].bottom, self.clusters)

    def table(self) -> pa.Table:
        """One row for each script, turn and editor, with every measure."""
        rows: list[dict[str, Any]] = []
        for editor, found in self.measured.items():
            values = {name: [own.per_item for own in found[name]] for name in MEASURES}
            for place, script in enumerate(self.scripts.scripts):
                for number, turn in enumerate(script.turns):
                    said = (script.id, script.cluster, editor, number + 1, turn.kind)
                    row = dict(zip(_FIXED, (*said, turn.relation, turn.instruction), strict=True))
                    own = {name: float(values[name][number][place]) for name in MEASURES}
                    rows.append(row | {k: None if math.isnan(v) else v for k, v in own.items()})
        return pa.Table.from_pylist(rows, schema=TURN_ROWS)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, with the definitions beside the numbers."""
        return {
            "scripts": len(self.scripts),
            "clusters": len(set(self.clusters)),
            "turns": TURNS,
            "why": self.scripts.why,
            "measures": {name: vars(measure) for name, measure in MEASURES.items()},
            "editors": {name: self._of(name) for name in self.measured},
            "difference_to_reopened": {
                editor: {name: self.gain(editor, name).as_dict() for name in COMPARED}
                for editor in AGAINST_DRIFT
                if editor in self.measured
            },
        }

    def _of(self, editor: str) -> dict[str, Any]:
        lives = {name: self.half_life(editor, name) for name in HALVES}
        return {
            "title": CHAINS[editor].title if editor in CHAINS else editor,
            "what": CHAINS[editor].what if editor in CHAINS else "",
            "half_life": {n: vars(life) | {"text": str(life)} for n, life in lives.items()},
            "success": {kind: self.rate(editor, kind).as_dict() for kind in KINDS},
            "curves": {
                name: [one.as_dict() for one in self.curve(editor, name)] for name in MEASURES
            },
        }

    @property
    def line(self) -> str:
        """For people."""
        if not self.measured:
            return f"no edits in several turns: {self.scripts.why}"
        words = []
        for editor in (AGAIN, *AGAINST_DRIFT):
            last = self.curve(editor, "error")[-1].value
            said = "not measured" if math.isnan(last) else f"{last:.2f} times"
            words.append(f"{CHAINS[editor].title.lower()}: {said}")
        return (
            f"after {TURNS} turns, what should not have changed is off by this much of a round "
            f"trip's error: {'; '.join(words)}"
        )


_FIXED = ("script", "cluster", "editor", "turn", "kind", "relation", "instruction")
TURN_ROWS = pa.schema(
    [
        *(pa.field(n, pa.int64() if n == "turn" else pa.string()) for n in _FIXED),
        *(pa.field(name, pa.float64()) for name in MEASURES),
    ],
    metadata={"comment": "One row per script, turn and editor."},
)


def _interval(name: str, own: Measured, clusters: Sequence[str]) -> Interval:
    if MEASURES[name].unit == "%":
        return cluster_rate(own.per_item, clusters)
    return cluster_ratio(own.top, own.bottom, clusters)


def measure_drift(
    scripts: Scripts, models: TrainedModels, features: Features, threshold: float
) -> Drift:
    """Run every editor over the scripts, and measure them."""
    if not len(scripts):
        return Drift(scripts)
    return scored(scripts, run_chains(scripts, models), models.round_trip, features, threshold)


def scored(
    scripts: Scripts,
    outputs: Mapping[str, Chain],
    round_trip: Any,
    features: Features,
    threshold: float,
) -> Drift:
    """Measure what editors have made of the scripts.

    Args:
        round_trip: of pictures of one size, through the autoencoder.
    """
    parts = truths(scripts, round_trip, features, threshold)
    rows = [part.rows for part in parts]
    measured = {}
    for editor, chain in outputs.items():
        found = [measure(part, chain, features) for part in parts]
        measured[editor] = {
            name: [_joined(rows, [own[name][turn] for own in found]) for turn in range(TURNS)]
            for name in MEASURES
        }
    return Drift(scripts, measured, outputs)


def _joined(rows: Sequence[Any], parts: Sequence[Measured]) -> Measured:
    sides = ([own.top for own in parts], [own.bottom for own in parts])
    return Measured(*(np.array(in_order(rows, side), np.float64) for side in sides))
