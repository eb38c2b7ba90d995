"""The section on edits in several turns: curves with intervals, half-lives, pictures."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from kontext.evaluate.drift.chains import AGAIN, AGAINST_DRIFT, CHAINS, ChainSpec
from kontext.evaluate.drift.measures import MEASURES
from kontext.evaluate.drift.result import COMPARED, HALVES, KINDS, Drift
from kontext.evaluate.drift.scripts import TURNS
from kontext.evaluate.report.assets import Assets
from kontext.evaluate.report.builder import number
from kontext.evaluate.report.charts import Curve, chart
from kontext.evaluate.report.model import CardPicture, Chart, TableBlock
from kontext.evaluate.statistics import Interval

STORIES = 2  # scripts that are shown as pictures
SHORT = {
    "error": "error",
    "features": "features",
    "colour": "mean colour",
    "saturation": "saturation",
    "detail": "detail",
}
_AT_LAST = ("error", "features", "saturation")
_LINES = {  # colour, and whether it is dashed: references have no band
    "reopened": (0, False),
    "kept_latents": (1, False),
    "kept_detail": (2, False),
    "thresholded": (3, False),
    "independent": (4, False),
    "codec": (5, False),
    "identity": (5, True),
    "jpeg": (4, True),
}
_CHARTS = ("success", "holds", "error", "features", "colour", "saturation", "detail")


@dataclass(frozen=True)
class Story:
    """One script in pictures: what the turns say, and a row for each editor."""

    said: tuple[str, ...]
    rows: tuple[tuple[str, tuple[CardPicture, ...]], ...]


@dataclass(frozen=True)
class DriftCard:
    """What the report shows of edits in several turns."""

    intro: str
    charts: tuple[Chart, ...] = ()
    tables: tuple[TableBlock, ...] = ()
    stories: tuple[Story, ...] = ()
    chains: Mapping[str, ChainSpec] = field(default_factory=lambda: CHAINS)


def drift_card(drift: Drift, assets: Assets) -> DriftCard:
    """The card; without curves where there are no scripts."""
    if not drift.measured:
        return DriftCard(f"Not measured: {drift.scripts.why}.")
    charts = (_chart(drift, name) for name in _CHARTS)
    return DriftCard(
        f"{len(drift.scripts)} scripts of {TURNS} turns, each on one held-out picture, from the "
        "pairs of the data: the picture is known after every turn. One turn asks for nothing, one "
        "takes the edit before it back.",
        tuple(one for one in charts if one.svg),
        (_lives(drift), _gains(drift)),
        tuple(_story(drift, row, assets) for row in range(min(STORIES, len(drift.scripts)))),
    )


def _chart(drift: Drift, name: str) -> Chart:
    measure = MEASURES[name]
    scale = 100 if measure.unit == "%" else 1
    lines = []
    for editor, (colour, dashed) in _LINES.items():
        curve = drift.curve(editor, name)
        y, low, high = (
            np.array([scale * getattr(one, side) for one in curve])
            for side in ("value", "low", "high")
        )
        turns = np.arange(1.0, TURNS + 1)
        title = CHAINS[editor].title
        band = (None, None) if dashed else (low, high)
        lines.append(Curve(title, turns, y, colour, False, dashed, *band))
    last = drift.curve(next(iter(drift.measured)), name)[-1].n
    few = "" if last == len(drift.scripts) else f" {last} scripts have any left at turn {TURNS}."
    caption = f"{measure.definition[0].upper()}{measure.definition[1:]}.{few}"
    return chart(measure.title, caption, lines, "turn", measure.axis)


def _lives(drift: Drift) -> TableBlock:
    columns = (
        "editor",
        *(f"half-life of {what}" for what in HALVES.values()),
        *KINDS.values(),
        *(f"{SHORT[name]}, turn {TURNS}" for name in _AT_LAST),
    )
    rows = []
    for editor in drift.measured:
        lives = [str(drift.half_life(editor, name)) for name in HALVES]
        rates = [_said(drift.rate(editor, kind), "%") for kind in KINDS]
        last = [drift.curve(editor, name)[-1] for name in _AT_LAST]
        shifts = [
            _said(one, MEASURES[name].unit, signed=name == "saturation")
            for name, one in zip(_AT_LAST, last, strict=True)
        ]
        rows.append((CHAINS[editor].title, *lives, *rates, *shifts))
    note = (
        "Half-life: the first turn after which at most half of the scripts hold, with the 95 % "
        "interval. Of edits: all turns so far have succeeded. Of the rest: what should not have "
        "changed so far has been as the autoencoder leaves it at every turn. Then the share of "
        "turns that succeed, by what they ask for."
    )
    return TableBlock("Half-lives", columns, tuple(rows), note)


def _gains(drift: Drift) -> TableBlock:
    columns = ("editor", *(_compared(name) for name in COMPARED))
    rows = [(CHAINS[AGAIN].title, *(_last(drift, AGAIN, name) for name in COMPARED))]
    for editor in AGAINST_DRIFT:
        cells = []
        for name in COMPARED:
            gain = drift.gain(editor, name)
            clear = " *" if gain.low > 0 or gain.high < 0 else ""
            difference = _said(gain, MEASURES[name].unit, signed=True)
            cells.append(f"{_last(drift, editor, name)}: {difference}{clear}")
        rows.append((CHAINS[editor].title, *cells))
    note = (
        "The same scripts, noise and instructions: each figure, and its difference to pictures "
        "that are reopened, script by script, with the 95 % interval; *: there is no zero in it."
    )
    return TableBlock("Ways against drift", columns, tuple(rows), note)


def _compared(name: str) -> str:
    return "success, all turns" if name == "success" else f"{SHORT[name]}, turn {TURNS}"


def _last(drift: Drift, editor: str, name: str) -> str:
    """A measure after the last turn; success over all turns."""
    if name == "success":
        flags = [own.top for own in drift.measured[editor]["success"]]
        return number(float(np.mean(flags)), "%")
    return _said(replace(drift.curve(editor, name)[-1], low=math.nan), MEASURES[name].unit)


def _said(found: Interval, unit: str, signed: bool = False) -> str:
    if not found.n or found.value != found.value:
        return "–"
    if unit == "%":
        sign = "+" if signed else ""
        value, low, high = (f"{100 * v:{sign}.0f}" for v in (found.value, found.low, found.high))
        return f"{value}\u00a0% ({low} to {high})"
    sign, digits = ("+" if signed else ""), 3 if abs(found.value) < 0.1 else 2
    bounds = (found.value, found.low, found.high)
    value, low, high = (f"{v:{sign}.{digits}f}" for v in bounds)
    mark = f"\u00a0{unit}" if unit else ""
    return f"{value}{mark}" if found.low != found.low else f"{value}{mark} ({low} to {high})"


def _story(drift: Drift, row: int, assets: Assets) -> Story:
    script = drift.scripts.scripts[row]
    known = [CardPicture("known", assets.image(drift.scripts.pictures[r])) for r in script.rows]
    rows = [("Known", tuple(known))]
    for editor in (AGAIN, *AGAINST_DRIFT, "codec"):
        if editor in drift.outputs:
            rows.append((CHAINS[editor].title, _shots(drift, editor, row, assets, known[0])))
    return Story(("", *(_words(turn.kind, turn.instruction) for turn in script.turns)), tuple(rows))


def _shots(
    drift: Drift, editor: str, row: int, assets: Assets, first: CardPicture
) -> tuple[CardPicture, ...]:
    shots = [first]
    for turn in range(TURNS):
        ok = bool(drift.measured[editor]["success"][turn].top[row])
        path = assets.image(drift.outputs[editor][turn][row])
        shots.append(CardPicture(editor, path, ok, why="success, as in the verdict"))
    return tuple(shots)


def _words(kind: str, instruction: str) -> str:
    return f"{instruction} (taken back)" if kind == "undo" else instruction
