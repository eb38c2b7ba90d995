"""Histograms of scores, as bars in percent of a drawing, with the limits where they lie."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kontext.data.report.limits import Limit, Values

CHANGES_RESULTS = False  # shows what is there

BINS = 48


@dataclass(frozen=True)
class Bar:
    """A bar in percent of the drawing; `count` in numbers, `out` beyond the limit."""

    left: float
    width: float
    height: float
    count: int
    span: str
    out: bool


@dataclass(frozen=True)
class Mark:
    """A limit in the drawing."""

    at: float
    label: str


@dataclass(frozen=True)
class Histogram:
    """One score. Heights are logarithmic: few pairs near a limit are seen beside thousands."""

    score: str
    comment: str
    count: int
    without: int  # pairs that have no such score
    low: str
    high: str
    most: int  # in one bar
    bars: tuple[Bar, ...]
    marks: tuple[Mark, ...]
    beyond: int  # outside of the general limit


def histogram(
    score: str, values: Values, without: int, limits: Sequence[Limit], comment: str = ""
) -> Histogram:
    """The histogram of finite values; `without` pairs have none."""
    every = [limit.value for limit in limits]
    every += [value for limit in limits for value in limit.overrides.values()]
    low, high = float(values.min()), float(values.max())
    inside = [value for value in every if low - (high - low) <= value <= high + (high - low)]
    low, high = min([low, *inside]), max([high, *inside])
    if high <= low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    counts, _ = np.histogram(values, edges)
    top = np.log1p(max(1, int(counts.max())))
    bars = tuple(
        Bar(
            left=100 * number / BINS,
            width=100 / BINS,
            height=float(100 * np.log1p(count) / top),
            count=int(count),
            span=f"{edges[number]:.3g} to {edges[number + 1]:.3g}",
            out=any(_out(limit, (edges[number] + edges[number + 1]) / 2) for limit in limits),
        )
        for number, count in enumerate(counts)
        if count
    )
    marks = tuple(
        Mark(100 * (value - low) / (high - low), label)
        for limit in limits
        for value, label in [
            (limit.value, f"{limit.value:g}"),
            *((value, f"{kind} {value:g}") for kind, value in sorted(limit.overrides.items())),
        ]
        if low <= value <= high
    )
    beyond = sum(int((limit.margin(values, [""] * len(values)) < 0).sum()) for limit in limits)
    name = f"{low:.3g}", f"{high:.3g}"
    return Histogram(
        score, comment, len(values), without, *name, int(counts.max()), bars, marks, beyond
    )


def _out(limit: Limit, value: float) -> bool:
    return value < limit.value if limit.least else value > limit.value
