"""One page a category with every item: its pictures, its noise, and all that was measured of it.

The numbers of the report lead there.
"""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kontext.evaluate.benches.held_out import Item
from kontext.evaluate.metrics import METRICS
from kontext.evaluate.models import noise_stream
from kontext.evaluate.pixels import Picture
from kontext.evaluate.references import EDITORS
from kontext.evaluate.report.assets import Assets
from kontext.evaluate.report.builder import number, templates
from kontext.evaluate.report.cards import CONDITIONS
from kontext.evaluate.report.model import Evaluation

MODELS = ("teacher", "student")
_SIDE = 128  # pixels of a picture's longer side, at most


@dataclass(frozen=True)
class Made:
    """What a model made of an item. `why`: which conditions of success failed."""

    model: str
    picture: str  # an address
    ok: bool
    why: str
    values: tuple[tuple[str, str], ...]  # title and figure of each metric


@dataclass(frozen=True)
class Shown:
    """One item."""

    item: Item
    stream: int  # of its noise
    context: str
    target: str
    made: tuple[Made, ...]
    others: str  # the other editors that succeed


def item_pages(done: Evaluation, assets: Assets, seed: int, digest: str) -> dict[str, str]:
    """Write them; by category the path relative to index.html.

    Args:
        seed: of the items' noise.
        digest: of the evaluation.
    """
    template = templates().get_template("items.html")
    found = {}
    for name in done.bench.categories:
        shown = [_shown(done, int(row)) for row in done.bench.where(name)]
        facts = {"category": name, "items": shown, "seed": seed, "digest": digest}
        page = template.render(facts, models=MODELS)
        found[name] = assets.add(f"assets/items-{name}.html", page.encode())
    return found


def _shown(done: Evaluation, row: int) -> Shown:
    bench, scores = done.bench, done.scores
    others = [
        EDITORS[name].title.lower()
        for name, found in scores.per_item.items()
        if name not in MODELS and found["success"].top[row]
    ]
    return Shown(
        bench.items[row],
        noise_stream(bench.items[row].pair_id),
        address(bench.context[row]),
        address(bench.target[row]),
        tuple(_made(done, model, row) for model in MODELS),
        ", ".join(others),
    )


def _made(done: Evaluation, model: str, row: int) -> Made:
    found = done.scores.per_item[model]
    failed = [name for name, metric in CONDITIONS.items() if not found[metric].top[row]]
    known = [(name, found[name].per_item[row]) for name in METRICS if name in found]
    values = [
        (METRICS[name].title, number(float(value), METRICS[name].unit))
        for name, value in known
        if not math.isnan(value)
    ]
    ok = bool(found["success"].top[row])
    return Made(model, address(done.outputs[model][row]), ok, " and ".join(failed), tuple(values))


def address(picture: Picture) -> str:
    """A small copy of a picture, as an address that holds it."""
    from PIL import Image

    image, out = Image.fromarray(np.ascontiguousarray(picture)), io.BytesIO()
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    image.save(out, "WEBP", quality=90)
    return f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode()}"


def anchor(item: Item) -> str:
    """Where an item is on its page."""
    return f"i-{item.pair_id[:12]}"


def links(pages: dict[str, str], items: Sequence[Item]) -> dict[str, str]:
    """By pair id the address of an item."""
    return {item.pair_id: f"{pages[item.category]}#{anchor(item)}" for item in items}
