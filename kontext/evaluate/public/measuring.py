"""Measures of a run's edits: each once, kept beside the edits, and only with the weights at hand.

A value is kept with its card and the ids of the pictures. So a killed run goes on, weights that
come later add their columns without a new edit, and other weights measure anew.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kontext.data.decode import decode_image
from kontext.data.pixels import Pixels
from kontext.errors import MetricUnavailable
from kontext.evaluate.benches.public import BenchItem, Loaded
from kontext.evaluate.measures import MEASURES, Card, Made, Opened
from kontext.evaluate.measures.sets import SETS, open_features
from kontext.evaluate.public.editing import mask_of
from kontext.evaluate.public.journal import Journal, add_line, whole_lines

CHANGES_RESULTS = False  # for users; no stage runs a public bench

_LINES = "measures.jsonl"
Progress = Callable[[int, int], None]
Values = dict[str, float | None]


@dataclass
class Measurements:
    """values: item -> measure -> value. unavailable: title -> why there is no figure of it.

    sets: of the whole run, JSON-ready.
    """

    values: dict[str, Values] = field(default_factory=dict)
    cards: dict[str, Card] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    sets: list[dict[str, Any]] = field(default_factory=list)


def measure_all(
    loaded: Loaded, journal: Journal, progress: Progress = lambda done, total: None
) -> Measurements:
    """Measure every item that has a result. Raises BenchError where a line cannot be read."""
    found, opened = Measurements(), dict[str, Opened]()
    for name in loaded.bench.measures:
        try:
            opened[name] = MEASURES[name].open()
            found.cards[name] = opened[name].card
        except MetricUnavailable as error:
            found.unavailable[MEASURES[name].title] = str(error)
    path = journal.folder / _LINES
    kept = {row["item"]: row["values"] for row in whole_lines(path)}
    items = [i for i in loaded.items if journal.rows[i.id]["outcome"] == "edited"]
    for number, item in enumerate(items):
        progress(number, len(items))
        wanted = {name: one for name, one in opened.items() if _applies(loaded, item, name)}
        keys = {name: _key(one.card, item, journal) for name, one in wanted.items()}
        before = kept.get(item.id, {})
        left = {n: one for n, one in wanted.items() if before.get(n, [""])[0] != keys[n]}
        if left:
            made = made_of(item, journal)
            new = {name: [keys[name], one.value(made)] for name, one in left.items()}
            kept[item.id] = before | new
            add_line(path, {"item": item.id, "values": kept[item.id]})
        found.values[item.id] = {name: kept[item.id][name][1] for name in wanted}
    for name in found.cards:
        if items and all(own.get(name) is None for own in found.values.values()):
            found.unavailable[MEASURES[name].title] = "no item of this run has what it compares"
    found.sets = _sets(loaded, journal, items, found.unavailable)
    return found


def _applies(loaded: Loaded, item: BenchItem, name: str) -> bool:
    only = loaded.bench.only.get(name)
    return only is None or item.category in only


def _key(card: Card, item: BenchItem, journal: Journal) -> str:
    """Of all that a value depends on."""
    row = journal.rows[item.id]
    words = [item.caption, item.context_caption, item.wanted, item.written, item.instruction]
    said = [card.said, row["output"], row["context"], str(item.target), str(item.mask), *words]
    return hashlib.sha256("\0".join(said).encode()).hexdigest()[:16]


def made_of(item: BenchItem, journal: Journal) -> Made:
    """An edit with all that its item has to compare it with."""
    context = None if item.context is None else item.context.read()
    if item.after:
        context = journal.picture(item.after).read_bytes()
    return Made(
        output=_read(journal.picture(item.id).read_bytes()),
        context=None if context is None else _read(context),
        target=None if item.target is None else _read(item.target.read()),
        mask=None if item.mask is None else mask_of(item.mask.read()),
        caption=item.caption or (item.instruction if item.context is None else ""),
        context_caption=item.context_caption,
        wanted=item.wanted,
        written=item.written,
    )


def _sets(
    loaded: Loaded, journal: Journal, items: list[BenchItem], unavailable: dict[str, str]
) -> list[dict[str, Any]]:
    """Distances of all results to all targets, or to the inputs where there are no targets."""
    found = []
    able = [item for item in items if item.target is not None or item.context is not None]
    features: dict[str, Any] = {}
    for name in loaded.bench.sets:
        own = SETS[name]
        try:
            own.check(len(able))
            if not features:
                embed, card = open_features()
                features = _features(able, journal, embed)
            value = own.measure(features["real"], features["made"], [i.base for i in able])
        except MetricUnavailable as error:
            unavailable[own.title] = str(error)
            continue
        to = "targets" if all(item.target is not None for item in able) else "inputs"
        said = {"name": name, "title": own.title, "definition": own.definition, "to": to}
        found.append({**said, "card": card.said, **value.as_dict()})
    return found


def _features(
    items: list[BenchItem], journal: Journal, embed: Callable[[Pixels], Any]
) -> dict[str, Any]:
    known = all(item.target is not None for item in items)
    real, made = [], []
    for item in items:
        one = made_of(item, journal)
        other = one.target if known else one.context
        assert other is not None
        real.append(embed(other))
        made.append(embed(one.output))
    return {"real": np.stack(real), "made": np.stack(made)}


def _read(data: bytes) -> Pixels:
    return decode_image(data, resolution=None, background="#ffffff").rgb
