"""Score every editor with every metric, compare with the goals, and mark unfit metrics."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from kontext.data.quality.pixels import ssim
from kontext.errors import MetricUnavailable
from kontext.evaluate.benches.held_out import Bench
from kontext.evaluate.false_editors import FALSE_EDITORS
from kontext.evaluate.metrics import METRICS, Measured, Metric, Scoring
from kontext.evaluate.metrics.fidelity import MAX_OUTSIDE_RATIO
from kontext.evaluate.metrics.reading import reader_name
from kontext.evaluate.pixels import Images, Rows, alike, in_order, psnr, taken
from kontext.evaluate.references import EDITORS, SEES_TARGET
from kontext.evaluate.statistics import Interval, cluster_mean, cluster_rate, cluster_ratio
from kontext.evaluate.truths import Truth, known_truths
from schemas.sections.evaluation import EvaluateConfig

SUCCESS_GOALS = {  # none for removals: a plain fill reaches them, no model is needed
    "local": 0.75,
    "global": 0.70,
    "text": 0.90,
    "style": 0.60,
    "character": 0.75,
    "recolouring": 0.90,
}
Place = Mapping[str, str | int]  # picture, offset_bytes and length_bytes
PSNR_GOAL = 28.0  # dB, held-out images
READ_GOAL = 0.85
_OF_METRIC = ("title", "unit", "better", "judges", "definition")


@dataclass(frozen=True)
class Goal:
    """A goal and what was measured. `reached` goes by the point estimate, whatever the interval."""

    name: str
    title: str
    sense: str  # ≥ or ≤
    goal: float
    unit: str
    measured: Interval

    @property
    def verdict(self) -> str:
        """reached or not reached, by the point estimate; not measured where there is none."""
        if math.isnan(self.measured.value):
            return "not measured"
        return "reached" if self.reached else "not reached"

    @property
    def reached(self) -> bool:
        """True when the point estimate is on the right side; nothing measured is not."""
        value = self.measured.value
        return value >= self.goal if self.sense == "≥" else value <= self.goal

    @property
    def certain(self) -> bool:
        """The whole interval lies on the same side of the goal as the point estimate."""
        low, high = self.measured.low, self.measured.high
        side = low >= self.goal if self.sense == "≥" else high <= self.goal
        other = high < self.goal if self.sense == "≥" else low > self.goal
        return side if self.reached else other

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        own = {key: value for key, value in vars(self).items() if key != "measured"}
        judged = {"reached": self.reached, "certain": self.certain, "verdict": self.verdict}
        return {**own, **judged, **self.measured.as_dict()}


@dataclass(frozen=True)
class Scores:
    """Everything measured: `table[editor][category][metric]`."""

    table: dict[str, dict[str, dict[str, Interval]]]
    per_item: dict[str, dict[str, Measured]]  # editor -> metric -> [N]
    unfit: list[dict[str, str]]
    goals: list[Goal]
    autoencoder: dict[str, Interval]
    truths: dict[tuple[str, str], list[Truth]]  # by category and relation
    unavailable: dict[str, str] = field(default_factory=dict)  # metric's title -> why

    def of_verdict(self, verdict: str) -> list[Goal]:
        """The goals of which this is the verdict."""
        return [goal for goal in self.goals if goal.verdict == verdict]

    @property
    def summary(self) -> str:
        """`4 of 6 goals reached, 1 not measured`: what was not measured is not counted."""
        lost = len(self.of_verdict("not measured"))
        counted = f"{len(self.of_verdict('reached'))} of {len(self.goals) - lost} goals reached"
        return counted + (f", {lost} not measured" if lost else "")


def score(
    bench: Bench,
    scorings: Mapping[str, Sequence[Scoring]],
    autoencoder: Mapping[str, Interval],
) -> Scores:
    """Score the editors.

    Args:
        scorings: by editor (see references.EDITORS), one for each part of the bench.
    """
    unavailable = dict[str, str]()
    per_item = {editor: _measured(bench, p, unavailable) for editor, p in scorings.items()}
    table = {
        editor: {
            category: {
                name: _interval(bench, bench.where(category), name, found)
                for name, found in measured_by.items()
            }
            for category in bench.categories
        }
        for editor, measured_by in per_item.items()
    }
    return Scores(
        table=table,
        per_item=per_item,
        unfit=unfit_metrics(table, bench.categories),
        goals=_goals(table["student"], autoencoder),
        autoencoder=dict(autoencoder),
        truths=known_truths(bench, per_item),
        unavailable=unavailable,
    )


def _measured(
    bench: Bench, parts: Sequence[Scoring], unavailable: dict[str, str]
) -> dict[str, Measured]:
    """What each metric says of the items, in bench order; without those that say nothing.

    Why a metric cannot be measured at all is written into `unavailable`.
    """

    def said(metric: Metric, part: Scoring) -> Measured | None:
        try:
            return metric.measure(part)
        except MetricUnavailable as error:
            unavailable[metric.title] = str(error)
            return None

    # all of a part before the next one: metrics share what they compute of it
    found = [{name: said(metric, part) for name, metric in METRICS.items()} for part in parts]
    rows, joined = [rows for rows, _ in bench.parts], dict[str, Measured]()
    for name in METRICS:
        known = [own for each in found if (own := each[name]) is not None]
        if len(known) == len(parts) == 1:
            joined[name] = known[0]
        elif len(known) == len(parts):
            sides = ([own.top for own in known], [own.bottom for own in known])
            joined[name] = Measured(*(np.array(in_order(rows, side)) for side in sides))
    return joined


def _interval(bench: Bench, rows: Rows, name: str, found: Measured) -> Interval:
    clusters = [bench.items[i].cluster for i in rows]
    if METRICS[name].unit == "%":
        return cluster_rate(found.per_item[rows], clusters)
    return cluster_ratio(found.top[rows], found.bottom[rows], clusters)


def unfit_metrics(
    table: Mapping[str, Mapping[str, Mapping[str, Interval]]], categories: Sequence[str]
) -> list[dict[str, str]]:
    """Edit metrics that rank "did nothing" above every real editor, and preservation metrics that
    do not rank it first: they measure something else in that category.

    Editors that see the target and those that are wrong on purpose do not compete.
    """
    found: list[dict[str, str]] = []
    apart = {"identity", *SEES_TARGET, *FALSE_EDITORS}
    rivals = [name for name in table if name not in apart]
    if "identity" not in table or not rivals:
        return found
    for category in categories:
        for name, metric in METRICS.items():
            own = _value(table["identity"][category], name)
            others = [_value(table[rival][category], name) for rival in rivals]
            known = [value for value in others if not math.isnan(value)]
            if math.isnan(own) or not known:
                continue
            first = all(_ahead(metric, own, value) for value in known)
            if metric.judges == "edit" and first:
                found.append({"metric": name, "category": category, "why": "identity ranks first"})
            if metric.judges == "preservation" and any(_ahead(metric, v, own) for v in known):
                found.append({"metric": name, "category": category, "why": "identity is beaten"})
    return found


def _value(row: Mapping[str, Interval], metric: str) -> float:
    return row[metric].value if metric in row else math.nan


def _ahead(metric: Metric, a: float, b: float) -> bool:
    return a > b if metric.better == "higher" else a < b


def _goals(
    student: Mapping[str, Mapping[str, Interval]], autoencoder: Mapping[str, Interval]
) -> list[Goal]:
    def measured(category: str, metric: str) -> Interval:
        return student.get(category, {}).get(metric) or cluster_rate(np.zeros(0), ())

    outside = measured("local", "outside_ratio")
    return [
        *(
            Goal(name, f"{name} edits", "≥", goal, "%", measured(name, "success"))
            for name, goal in SUCCESS_GOALS.items()
        ),
        Goal(
            "text_read",
            "text edits, read by OCR",
            "≥",
            READ_GOAL,
            "%",
            measured("text", "text_read"),
        ),
        Goal("outside", "untouched area of local edits", "≤", MAX_OUTSIDE_RATIO, "×", outside),
        Goal("autoencoder", "autoencoder PSNR", "≥", PSNR_GOAL, "dB", autoencoder["psnr"]),
    ]


def autoencoder_scores(
    images: Images, round_trip: Images, clusters: Sequence[str]
) -> dict[str, Interval]:
    """PSNR (dB) and SSIM of the round trip of M held-out images, means over images."""
    groups = alike(images)
    measured = {
        name: np.array(
            in_order(groups, [metric(taken(images, own), taken(round_trip, own)) for own in groups])
        )
        for name, metric in (("psnr", psnr), ("ssim", ssim))
    }
    return {name: cluster_mean(values, clusters) for name, values in measured.items()}


def items_table(bench: Bench, scores: Scores, edits: Mapping[str, Sequence[Place]]) -> pa.Table:
    """One row per item and editor: what was asked, whether it succeeded, every metric, the picture.

    `edits` has the places of an editor's pictures, in bench order, where they were kept.
    """
    rows: list[dict[str, Any]] = []
    for editor, measured in scores.per_item.items():
        values = {name: measured[name].per_item if name in measured else None for name in METRICS}
        for i, item in enumerate(bench.items):
            row: dict[str, Any] = {name: getattr(item, name) for name in _OF_ITEM}
            for name, column in values.items():
                row[name] = None if column is None or math.isnan(column[i]) else float(column[i])
            row |= edits[editor][i] if editor in edits else {}
            rows.append(row | {"editor": editor, "success": bool(measured["success"].top[i])})
    return pa.Table.from_pylist(rows, schema=ITEMS)


_OF_ITEM = ("pair_id", "category", "relation", "instruction", "source", "cluster")
ITEMS = pa.schema(
    [
        *[pa.field(name, pa.string()) for name in (*_OF_ITEM, "editor")],
        pa.field("success", pa.bool_()),
        *[pa.field(name, pa.float64()) for name in METRICS if name != "success"],
        pa.field("picture", pa.string()),
        *[pa.field(name, pa.uint64()) for name in ("offset_bytes", "length_bytes")],
    ],
    metadata={"comment": "One row per held-out item and editor; the pictures are in edits.tar."},
)


def scores_json(bench: Bench, scores: Scores, config: EvaluateConfig) -> dict[str, Any]:
    """The whole result as JSON, with the definitions beside the numbers."""

    names = bench.categories
    return {
        "editors": {
            name: {"title": EDITORS[name].title, "what": EDITORS[name].what}
            for name in scores.table
        },
        "metrics": {
            name: {key: getattr(metric, key) for key in _OF_METRIC} | {"card": vars(metric.card)}
            for name, metric in METRICS.items()
        },
        "categories": {
            name: {
                "n": len(bench.where(name)),
                "clusters": len({bench.items[i].cluster for i in bench.where(name)}),
                "available": bench.available.get(name, 0),
                "excluded": bench.excluded.get(name, 0),
            }
            for name in names
        },
        "mask_threshold": bench.mask_threshold,
        "reader": reader_name(),
        "unavailable": scores.unavailable,
        "config": config.model_dump(mode="json"),
        "scores": {
            editor: {
                category: {name: interval.as_dict() for name, interval in row.items()}
                for category, row in by_category.items()
            }
            for editor, by_category in scores.table.items()
        },
        "goals": [goal.as_dict() for goal in scores.goals],
        "reached": len(scores.of_verdict("reached")),
        "not_measured": len(scores.of_verdict("not measured")),
        "unfit": scores.unfit,
        "truths": [truth.as_dict() for found in scores.truths.values() for truth in found],
        "autoencoder": {name: value.as_dict() for name, value in scores.autoencoder.items()},
    }
