"""What the report shows, as plain data: builders fill it, the template prints it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kontext.evaluate.report.lineage import Node
from kontext.evaluate.score import Goal
from kontext.evaluate.statistics import Interval

# asset paths are relative to index.html


@dataclass(frozen=True)
class CardPicture:
    """One picture of an edit card. `ok` says whether the edit succeeded; None: not an edit."""

    role: str  # context, teacher, student, target
    path: str
    ok: bool | None = None
    error: float | None = None  # error over the mask ÷ the context's
    why: str = ""  # which half of success failed


@dataclass(frozen=True)
class Card:
    """One held-out edit."""

    instruction: str
    relation: str
    source: str
    pair_id: str
    shots: tuple[CardPicture, ...]


@dataclass(frozen=True)
class CategoryEdits:
    """The grid of one category: the first items in bench order, then the student's worst ones."""

    name: str
    blurb: str
    first: tuple[Card, ...]
    worst: tuple[Card, ...]
    student: Interval
    teacher: Interval
    pixels: Interval  # of the student: the two halves of success
    features: Interval
    goal: Goal


@dataclass(frozen=True)
class EditorRow:
    """Success per category of one editor."""

    name: str
    title: str
    what: str
    by_category: dict[str, Interval]


@dataclass(frozen=True)
class MetricTable:
    """One metric: editor x category."""

    name: str
    title: str
    unit: str
    better: str
    definition: str
    rows: tuple[EditorRow, ...]
    unfit: frozenset[str]  # categories where it is not to be trusted


@dataclass(frozen=True)
class Chart:
    """An inline SVG with its caption; `table` holds a heat map instead."""

    title: str
    caption: str
    svg: str = ""


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
class SamplePair:
    """A training pair: context (empty for text-to-image) and target."""

    instruction: str
    context: str
    target: str
    relation: str


@dataclass(frozen=True)
class TableBlock:
    """A small table under a heading."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class StageRow:
    """One stage of the lineage table."""

    stage: str
    summary: str
    digest: str
    seconds: float
    files: int
    bytes: int
    inputs: tuple[str, ...]
    commit: str = ""


@dataclass
class ReportData:
    """The whole report."""

    title: str
    recipe: str
    digest: str
    facts: list[tuple[str, str]] = field(default_factory=list)  # (number, what)
    lead: str = ""
    goals: list[Goal] = field(default_factory=list)
    editors: list[EditorRow] = field(default_factory=list)
    bench: dict[str, dict[str, int]] = field(default_factory=dict)  # n, clusters, available, …
    mask_threshold: float = 0.0
    teaser: list[Card] = field(default_factory=list)
    edits: list[CategoryEdits] = field(default_factory=list)
    reconstructions: list[tuple[str, str]] = field(default_factory=list)  # (original, decoded)
    autoencoder: dict[str, Interval] = field(default_factory=dict)
    autoencoder_charts: list[Chart] = field(default_factory=list)
    training_charts: list[Chart] = field(default_factory=list)
    heat: HeatMap | None = None
    pictures: list[tuple[str, str]] = field(default_factory=list)  # (path, caption)
    samples: dict[str, list[SamplePair]] = field(default_factory=dict)
    data_tables: list[TableBlock] = field(default_factory=list)
    safety_facts: list[tuple[str, str]] = field(default_factory=list)
    safety_tables: list[TableBlock] = field(default_factory=list)
    latency: list[dict[str, Any]] = field(default_factory=list)
    latency_facts: dict[str, Any] = field(default_factory=dict)
    nodes: Sequence[Node] = ()
    stages: list[StageRow] = field(default_factory=list)
    metrics: list[MetricTable] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)  # (stage, note)
    numerics: list[tuple[str, str]] = field(default_factory=list)
