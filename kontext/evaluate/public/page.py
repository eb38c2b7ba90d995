"""The page of a run: warnings and the table first, then pictures; whole in one file."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from kontext.data.decode import decode_image
from kontext.data.pixels import Pixels
from kontext.data.sources.stable import stable_hash
from kontext.evaluate.benches.public import BenchItem, Loaded
from kontext.evaluate.public.items_page import NAME as ITEMS
from kontext.evaluate.public.items_page import anchor
from kontext.evaluate.public.journal import Journal
from kontext.evaluate.public.scores import Column
from kontext.evaluate.public.table import editor_name, notes, table, warnings

CHANGES_RESULTS = False  # for users; no stage runs a public bench

_EACH, _SIDE = 8, 192  # items of each kind that are shown, and pixels of the longer side
_STYLE = (
    "body{font:15px/1.5 system-ui;max-width:72rem;margin:1rem auto;padding:0 1rem}"
    "div.wide{overflow-x:auto}table{border-collapse:collapse}"
    "td,th{padding:.2rem .7rem;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}"
    "td:first-child,th:first-child{text-align:left}.bad{color:#b00;font-weight:600}"
    ".cards{display:flex;flex-wrap:wrap;gap:1rem}figure{margin:0;width:25rem;max-width:100%}"
    "figure img{max-width:49%}figcaption{font-size:13px}"
)


def page(
    loaded: Loaded, journal: Journal, summary: Mapping[str, Any], shown: Sequence[Column]
) -> str:
    """HTML. Pictures are small copies; those of the run are beside it, in `edits/`."""
    return "\n".join(_lines(loaded, journal, summary, shown)) + "\n"


def _lines(
    loaded: Loaded, journal: Journal, summary: Mapping[str, Any], shown: Sequence[Column]
) -> Iterator[str]:
    title = escape(f"{summary['title']}: {editor_name(summary)}")
    yield '<!doctype html><html lang="en"><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width">'
    yield f"<title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>"
    yield from (f'<p class="bad">{escape(warning)}</p>' for warning in warnings(summary))
    heads, *rows = table(summary)
    yield '<div class="wide"><table><tr>' + "".join(f"<th>{escape(h)}" for h in heads) + "</tr>"
    for row in rows:
        yield "<tr>" + "".join(f"<td>{escape(cell)}" for cell in row) + "</tr>"
    yield "</table></div>"
    first, *more = notes(summary)
    yield f"<p>{escape(first)}</p><ul>"
    yield from (f"<li>{escape(line.removeprefix('- '))}" for line in more)
    yield f'</ul><p><a href="{ITEMS}">Every item</a>, with what judges replied.</p>'
    for heading, items in _chosen(loaded, journal, summary, shown):
        yield f'<h2>{heading}</h2><div class="cards">'
        yield from (_card(item, journal, loaded, shown) for item in items)
        yield "</div>"
    yield from _without(loaded, journal)


def _chosen(
    loaded: Loaded, journal: Journal, summary: Mapping[str, Any], shown: Sequence[Column]
) -> Iterator[tuple[str, list[BenchItem]]]:
    """Items without selection, then the best and the worst by the main score."""
    edited = [i for i in loaded.items if journal.rows[i.id]["outcome"] == "edited"]
    by_chance = sorted(edited, key=lambda item: stable_hash("page", item.id))
    yield "By chance", by_chance[:_EACH]
    values = next((one.values for one in shown if one.name == summary["main"]), None)
    if values is None:
        return
    known = [i for i in np.argsort(values, kind="stable") if np.isfinite(values[i])]
    better = next(one.better for one in shown if one.name == summary["main"])
    ends = {"Worst": known[:_EACH], "Best": known[::-1][:_EACH]}
    if better == "lower":
        ends = {"Worst": ends["Best"], "Best": ends["Worst"]}
    for heading, places in ends.items():
        yield heading, [loaded.items[int(i)] for i in places]


def _card(item: BenchItem, journal: Journal, loaded: Loaded, shown: Sequence[Column]) -> str:
    path, place = journal.picture(item.id), loaded.items.index(item)
    before = None if item.context is None else item.context.read()
    if item.after:
        before = journal.picture(item.after).read_bytes()
    images = [_thumbnail(data) for data in (before, path.read_bytes()) if data is not None]
    values = ", ".join(
        f"{one.title} {one.values[place]:.3g}" for one in shown if np.isfinite(one.values[place])
    )
    return (
        f'<figure><a href="edits/{escape(path.name)}">{"".join(images)}</a><figcaption>'
        f"<b>{escape(item.instruction)}</b><br>{escape(item.category)}, "
        f'<a href="{ITEMS}#{anchor(item.id)}">{escape(item.id)}</a>'
        f"<br>{escape(values)}</figcaption></figure>"
    )


def _thumbnail(data: bytes) -> str:
    from PIL import Image

    rgb: Pixels = decode_image(data, resolution=None, background="#ffffff").rgb
    image, out = Image.fromarray(rgb), io.BytesIO()
    image.thumbnail((_SIDE, _SIDE))
    image.save(out, "JPEG", quality=85)
    address = base64.b64encode(out.getvalue()).decode()
    return f'<img alt="" src="data:image/jpeg;base64,{address}">'


def _without(loaded: Loaded, journal: Journal) -> Iterator[str]:
    """Every item that has no result, with the reason."""
    rows = [(item, journal.rows[item.id]) for item in loaded.items]
    lost = [(item, row) for item, row in rows if row["outcome"] != "edited"]
    if not lost:
        return
    yield f"<h2>Without a result: {len(lost)}</h2><ul>"
    for item, row in lost[:200]:
        said = f"{item.id}: {row['outcome']}, {row['problem']}"
        yield f"<li>{escape(said)}"
    if len(lost) > 200:
        yield f"<li>and {len(lost) - 200} more: items.parquet has them"
    yield "</ul>"
