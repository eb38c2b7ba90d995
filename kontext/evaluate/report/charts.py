"""Charts as inline SVG, in the colours of the page's light or dark theme.

Matplotlib draws in placeholder colours, which are then replaced by CSS variables; text stays text.
"""

import hashlib
import importlib.util
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kontext.evaluate.report.model import Chart, Key

_SIZE = (4.3, 2.7)  # inches
MUTED, GRID = "#010204", "#010205"
# series colours, in the order of the page's --c1 … --c6
SERIES = ("#020301", "#020302", "#020303", "#020304", "#020305", "#020306")
_CSS = {
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    **{colour: f"var(--c{i})" for i, colour in enumerate(SERIES, start=1)},
}


@dataclass(frozen=True)
class Curve:
    """One curve. `colour` indexes the palette; `faint` draws the unsmoothed values behind it.

    low, high: bounds of `y`, drawn as a band; nan where there are none.
    """

    label: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    colour: int = 0
    faint: bool = False
    dashed: bool = False
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None


def drawable() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def smooth(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Centred moving average that shrinks at the ends; nan values are left out."""
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)
    total = np.concatenate([[0.0], np.cumsum(filled)])
    count = np.concatenate([[0], np.cumsum(known)])
    half = max(window, 1) // 2
    low = np.clip(np.arange(len(values)) - half, 0, len(values))
    high = np.clip(np.arange(len(values)) + half + 1, 0, len(values))
    weight = count[high] - count[low]
    out = np.full(len(values), np.nan)
    np.divide(total[high] - total[low], weight, out=out, where=weight > 0)
    return out


def chart(
    title: str,
    caption: str,
    lines: Sequence[Curve],
    xlabel: str,
    ylabel: str,
    marks: Sequence[tuple[float, str]] = (),
) -> Chart:
    """Curves with their legend, as `line_chart` draws them.

    The legend is of the page: text in a drawing cannot wrap, so long labels would take the width
    of the curves and be cut at its edge.
    """
    named = [line for line in lines if np.isfinite(line.y).any() and not line.faint]
    keys = [Key(line.label, line.colour % len(SERIES), line.dashed) for line in named]
    svg = line_chart(lines, xlabel, ylabel, marks)
    return Chart(title, caption, svg, tuple(keys) if len(keys) > 1 else ())


def line_chart(
    lines: Sequence[Curve],
    xlabel: str,
    ylabel: str,
    marks: Sequence[tuple[float, str]] = (),
) -> str:
    """Inline SVG of curves without a legend. `marks` are labelled vertical lines.

    Returns "" when no curve has a finite point, or matplotlib is not installed.
    """
    lines = [line for line in lines if np.isfinite(line.y).any()]
    if not lines or not drawable():
        return ""
    figure, axes = _axes()
    for line in lines:
        colour = SERIES[line.colour % len(SERIES)]
        known = np.isfinite(line.y)
        if line.low is not None and line.high is not None:
            axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.12, linewidth=0)
        axes.plot(
            line.x[known],
            line.y[known],
            color=colour,
            linewidth=0.8 if line.faint else 1.8,
            linestyle=(0, (3, 2)) if line.dashed else "-",
            alpha=0.28 if line.faint else 1.0,
            marker="o" if known.sum() < 16 and not line.faint else "",
            markersize=3,
        )
    for x, label in marks:
        axes.axvline(x, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
        axes.annotate(
            label, (x, 1.0), xycoords=("data", "axes fraction"), xytext=(4, -9),
            textcoords="offset points", fontsize=8, color=MUTED,
        )  # fmt: skip
    axes.set_xlabel(xlabel, fontsize=8.5, color=MUTED)
    axes.set_ylabel(ylabel, fontsize=8.5, color=MUTED)
    if all((line.x == np.round(line.x)).all() for line in lines):
        axes.xaxis.get_major_locator().set_params(integer=True)  # there is no turn 2.5
    data = b"".join(line.x.tobytes() + line.y.tobytes() for line in lines)
    return _svg(figure, f"{ylabel} over {xlabel}", hashlib.sha256(data).hexdigest())


def _axes() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    figure.patch.set_alpha(0.0)
    axes.patch.set_alpha(0.0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(colors=MUTED, labelsize=8, length=0)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.01)
    return figure, axes


def _svg(figure, title: str, salt: str) -> str:  # type: ignore[no-untyped-def]
    import matplotlib

    buffer = io.StringIO()
    # a salt of the data keeps ids stable, and those of different charts on one page apart
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title + salt}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for colour, css in _CSS.items():
        text = text.replace(colour, css)
    text = re.sub(r'\s(width|height)="[^"]*pt"', "", text, count=2)
    # style: a bare * rule would leak
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    # matplotlib measures with its own font, the browser draws with the page's
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--sans)", text)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
