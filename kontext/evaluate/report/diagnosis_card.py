"""The diagnosis: a line for each check, its figures by category, and pictures of the checks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kontext.evaluate.benches.held_out import Bench
from kontext.evaluate.diagnosis.blame import PARTS, Blame
from kontext.evaluate.diagnosis.contamination import SCANS
from kontext.evaluate.diagnosis.finding import ALL, UNKNOWN, Finding
from kontext.evaluate.diagnosis.relations import RELATIONS
from kontext.evaluate.report.assets import Assets
from kontext.evaluate.report.charts import Curve, chart
from kontext.evaluate.report.model import Card, CardPicture, Chart, Evaluation, TableBlock
from kontext.evaluate.statistics import Interval
from kontext.evaluate.steps import Quality

_CONTEXTS = {
    "blank": "grey in place of the context",
    "shuffled": "another concept's context",
    "mirrored": "the context, left for right",
}


def tables(done: Evaluation) -> list[TableBlock]:
    """One for each kind of check that was made."""
    found, bench = done.diagnosis, done.bench
    made = [
        _table(
            "Was the context used?",
            _CONTEXTS,
            found.context,
            bench,
            "How much of another context's difference arrives in the result, with the same noise "
            "and instruction. 0 %: the context is ignored; an edit that keeps all it should keep "
            "is near 100 %.",
        ),
        _table(
            "Relations that need no target",
            RELATIONS,
            found.relations,
            bench,
            "How far two pictures are apart that should be one, as a share of how far the items' "
            "own edits move. 0 % is perfect.",
        ),
        _blame(found.blame),
    ]
    rates = [
        *(found.scan.rates if found.scan else ()),
        *(found.copies.made if found.copies else ()),
    ]
    right = f"{found.copies.right.value:.0%}" if found.copies else "–"
    pairs = f"{found.scan.trained:,}" if found.scan else "no"
    unhashed = found.scan.unhashed if found.scan else 0
    made.append(
        _table(
            "Is the test in training?",
            {**SCANS, "copies": "the student's edits that are copies of a training target"},
            rates,
            bench,
            f"Near: by PDQ and by pixels, among {pairs} training pairs; {unhashed} items have no "
            f"picture that PDQ can match. Of the right results {right} would count as copies.",
        )
    )
    return [table for table in made if table is not None]


def _table(
    title: str, rows: Mapping[str, str], found: Sequence[Finding], bench: Bench, note: str
) -> TableBlock | None:
    by_place = {(one.check, one.category): one for one in found}
    columns = [ALL, *bench.categories]
    shown = [
        (f"{name}: {what}", *(_cell(by_place.get((name, column))) for column in columns))
        for name, what in rows.items()
        if (name, ALL) in by_place
    ]
    return TableBlock(title, ("", *columns), tuple(shown), note) if shown else None


def _cell(found: Finding | None) -> str:
    if found is None:
        return "–"
    if found.verdict == UNKNOWN:
        return UNKNOWN
    verdict = "" if found.verdict in ("none", "found") else f", {found.verdict}"
    return f"{_share(found.measured)}{verdict}, n\u00a0=\u00a0{found.measured.n}"


def _share(measured: Interval) -> str:
    if measured.value != measured.value:
        return "–"
    if measured.low != measured.low:
        return f"{measured.value:.0%}"
    return f"{measured.value:.0%} ({100 * measured.low:.0f}–{100 * measured.high:.0f})"


def _blame(found: Sequence[Blame]) -> TableBlock | None:
    if not found:
        return None
    rows: list[tuple[Any, ...]] = []
    for name, what in PARTS.items():
        if name in found[0].parts:
            cells = []
            for each in found:
                lost = each.points.get(name)
                told = f"; {100 * lost.value:+.0f} points of success" if lost else ""
                cells.append(f"{_share(each.parts[name])}{told}")
            rows.append((f"{name}: {what}", *cells))
    rows.append(("blamed", *(each.verdict for each in found)))
    note = (
        "Shares of the student's mean absolute error to the target; they add up to 100 %, and one "
        "below 0 has made the error smaller. Points: what the step costs in success. A share is "
        "blamed where it is told from every other."
    )
    return TableBlock(
        "Which stage loses what?", ("", *(b.category for b in found)), tuple(rows), note
    )


def cards(done: Evaluation, assets: Assets) -> list[Card]:
    """Of the first diagnosed item of each category what became of its edit in every check."""
    found, bench = done.diagnosis, done.bench
    shown: dict[str, Card] = {}
    for place, row in enumerate(found.rows):
        item = bench.items[row]
        if item.category in shown or not found.pictures:
            continue
        shots = [
            CardPicture("context", assets.image(bench.context[row])),
            CardPicture("student", assets.image(done.outputs["student"][row])),
        ]
        for kind, made in found.pictures.items():
            shots.append(CardPicture(kind, assets.image(made[place])))
        shown[item.category] = Card(item, tuple(shots))
    return list(shown.values())


def pareto(done: Evaluation) -> tuple[list[Chart], TableBlock | None]:
    """Success over the milliseconds of an edit, by the number of steps."""
    if not done.qualities:
        return [], None
    step = next(part["median_ms"] for part in done.latency["parts"] if part["name"] == "step")
    fixed = done.latency["fixed_ms"]

    def taken(one: Quality) -> float:
        return float(fixed + step * one.evaluations)

    n = done.qualities[0].success.n
    lines = []
    for colour, model in enumerate(dict.fromkeys(one.model for one in done.qualities)):
        own = [one for one in done.qualities if one.model == model]
        x = np.array([taken(one) for one in own])
        lines.append(Curve(model, x, np.array([100 * one.success.value for one in own]), colour))
    caption = (
        f"Success in % of {n} items over the milliseconds of an edit, in 1, 2, 4, 8 and 28 steps."
    )
    charts = [chart("Steps against quality", caption, lines, "ms per edit", "success, %")]
    rows = tuple(
        (
            one.model,
            one.steps,
            one.evaluations,
            round(taken(one), 1),
            _share(one.success),
            f"{one.error.value:.2f}",
            "yes" if best(one, done.qualities) else "",
        )
        for one in done.qualities
    )
    columns = ("model", "steps", "evaluations", "ms", "success", "error, ×", "nothing is better")
    note = (
        f"Of {n} items, so the intervals are wide; the verdict's figures are of all items. "
        "Milliseconds: the parts that are always there, and the median step by its evaluations. "
        "Nothing is better: no other row is faster and succeeds as often."
    )
    return [one for one in charts if one.svg], TableBlock("", columns, rows, note)


def best(one: Quality, others: Sequence[Quality]) -> bool:
    """Whether no other is better in one of evaluations and success and as good in the other."""
    own = (one.evaluations, -one.success.value)
    beaten = (
        all(theirs <= mine for theirs, mine in zip(other, own, strict=True)) and other != own
        for other in ((each.evaluations, -each.success.value) for each in others)
    )
    return not any(beaten)
