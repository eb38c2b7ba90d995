"""Render the report folder: index.html, its style sheet and its pictures. Nothing external."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from kontext.evaluate.report.lineage import drawing
from kontext.evaluate.report.model import HeatMap

if TYPE_CHECKING:
    from jinja2 import Environment

_HERE = Path(__file__).parent
_LINEAGE = {"wide": 6, "narrow": 2}  # boxes to a row, on a screen and on a phone


def templates(**filters: Callable[..., Any]) -> Environment:
    """The templates of this folder, with `filters` by name. Markdown is not escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=lambda name: name is not None and name.endswith((".html", ".svg")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment


def render(data: Mapping[str, Any], folder: Path) -> Path:
    """Write index.html and assets/report.css into `folder` (where `Assets` put the pictures)."""
    pages = templates(figure=figure, size=size, duration=duration, heat=heat)
    svg = pages.get_template("lineage.svg")
    lineage = {name: svg.render(drawing(data["nodes"], n)) for name, n in _LINEAGE.items()}
    page = pages.get_template("report.html").render(r=data, lineage=lineage)
    (folder / "assets").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_HERE / "report.css", folder / "assets" / "report.css")
    index = folder / "index.html"
    index.write_text(page, encoding="utf-8")
    return index


def publish_copy(folder: Path, home: Path, digest: str) -> Path:
    """Copy a report folder to `home/report/<digest>` and `home/report/latest`; return the latter.

    Plain copies: a link would not survive being zipped or moved. Runs side by side do it in turn.
    """
    locks = home / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / "report.lock"):
        for name in (digest, "latest"):
            target = home / "report" / name
            fresh = home / "report" / f".{name}.new"
            shutil.rmtree(fresh, ignore_errors=True)
            shutil.copytree(folder, fresh)
            shutil.rmtree(target, ignore_errors=True)
            fresh.rename(target)
    return home / "report" / "latest" / "index.html"


def figure(value: Any) -> str:
    """A table cell: thousands grouped, floats to about three figures, None as a dash."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.3g}" if abs(value) >= 1 else f"{value:.4g}"


def number(value: float | None, unit: str, missing: str = "–") -> str:
    """A number in a metric's unit: rates (0-1) as percent; `missing` for None and nan."""
    if value is None or math.isnan(value):
        return missing
    if unit == "%":
        return f"{100 * value:.0f} %"
    return f"{value:.2f}{'' if unit == '×' else ' '}{unit}"


def size(count: float) -> str:
    """Bytes in a unit that reads well."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if count >= 10 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def heat(heat_map: HeatMap, value: float) -> float:
    """Colour share 0-85 of a heat map cell (used as `map | heat(value)`)."""
    spread = heat_map.high - heat_map.low
    return round(85 * min(max((value - heat_map.low) / spread, 0.0), 1.0), 1) if spread > 0 else 0.0
