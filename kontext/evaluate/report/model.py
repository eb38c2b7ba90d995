"""What the report shows, as plain data: builders fill it, the template prints it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kontext.evaluate.benches.held_out import Bench, Item
from kontext.evaluate.diagnosis.diagnose import Diagnosis
from kontext.evaluate.drift.result import Drift
from kontext.evaluate.pixels import Images
from kontext.evaluate.score import Scores
from kontext.evaluate.steps import Quality
from kontext.evaluate.versions import Versions
from kontext.evaluate.wordings import Wordings

# asset paths are relative to index.html


@dataclass(frozen=True)
class Evaluation:
    """What the stage evaluate measured: the report is made from it."""

    bench: Bench
    scores: Scores
    outputs: Mapping[str, Images]
    latency: Mapping[str, Any]
    feature_digest: str
    versions: Versions  # beside the tagged model
    wordings: Wordings  # how many of the items' instructions training has
    diagnosis: Diagnosis  # what the scores come from
    qualities: Sequence[Quality]  # of the models in more and fewer steps
    drift: Drift  # edits in several turns


@dataclass(frozen=True)
class CardPicture:
    """One picture of an edit card. `ok` says whether the edit succeeded; None: not an edit."""

    role: str  # context, teacher, student, target
    path: str
    ok: bool | None = None
    error: float | None = None  # error over the mask ÷ the context's
    why: str = ""  # which conditions of success failed


@dataclass(frozen=True)
class Card:
    """One held-out edit: context, teacher, student and target."""

    item: Item
    shots: tuple[CardPicture, ...]


@dataclass(frozen=True)
class CategoryEdits:
    """The grid of one category: the first items in bench order, then by title some chosen ones."""

    name: str
    blurb: str
    first: list[Card]
    more: Mapping[str, list[Card]]


@dataclass(frozen=True)
class Key:
    """A curve in a chart's legend. `colour`: place in the page's palette, from 0."""

    label: str
    colour: int
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """An inline SVG with its caption; `keys` are its legend."""

    title: str
    caption: str
    svg: str
    keys: tuple[Key, ...] = ()


@dataclass(frozen=True)
class HeatMap:
    """Rows x columns of numbers; `low` and `high` bound the colour."""

    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]
    low: float
    high: float


@dataclass(frozen=True)
class TableBlock:
    """A small table under a heading."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    note: str = ""
