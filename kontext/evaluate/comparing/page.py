"""The page: verdict, categories, pictures, and the items behind every number. Whole in one file."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kontext.evaluate.comparing.chosen import KINDS, Shown, chosen
from kontext.evaluate.comparing.compared import Compared, by_verdict
from kontext.evaluate.comparing.pictures import Pictures
from kontext.evaluate.comparing.sides import Row, Run, Side
from kontext.evaluate.models import noise_stream
from kontext.evaluate.paired import Difference
from kontext.evaluate.report.builder import number
from kontext.evaluate.versions import ALL, MODELS
from kontext.store.artifacts.artifact_store import ArtifactStore
from kontext.store.artifacts.diff import Change, diff

_HERE = Path(__file__).parent
_STYLE = _HERE.parent / "report" / "report.css"
_LARGEST = 256  # pixels of a picture's longer side on the page
_TOLD = 40  # differences of settings that are listed


@dataclass(frozen=True)
class Shot:
    """One picture of a card. `ok` says whether the edit succeeded; None: not an edit."""

    label: str
    png: bytes | None
    ok: bool | None = None
    error: float | None = None


@dataclass(frozen=True)
class Card:
    """One item: context, what each side made of it, target."""

    pair: str
    instruction: str
    note: str
    shots: tuple[Shot, ...]


@dataclass(frozen=True)
class Evidence:
    """One item's outcomes behind a figure: of each side, a run each."""

    pair: str
    row: Row
    stream: int
    outcomes: tuple[tuple[bool, ...], ...]
    errors: tuple[float | None, ...]


def page(found: Compared, store: ArtifactStore) -> str:
    """HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"picture": _picture, "number": number, "points": points}
    pictures = Pictures(store, found.sides[0].runs[0])
    return environment.get_template("compare.html").render(
        c=found,
        style=_STYLE.read_text(encoding="utf-8"),
        rows=[list(_rows(found, at)) for at in range(len(found.versions))],
        cards=[
            {name: _cards(found, side, name, pictures) for name in found.categories}
            for side in found.sides[1:]
        ],
        kinds=KINDS,
        by_verdict=[by_verdict(versions) for versions in found.versions],
        evidence=evidence(found),
        models=MODELS,
        all=ALL,
        changes=_changes(found, store),
    )


def points(value: float) -> str:
    """A difference of rates, in points."""
    return f"{100 * value:+.1f}"


def _rows(found: Compared, at: int) -> Iterator[tuple[str, str, Difference]]:
    """Model, category and difference, `all` first in each model."""
    for name, each in found.versions[at].differences.items():
        model, _, category = name.partition("/")
        yield model, category, each


def _cards(
    found: Compared, later: Side, category: str, pictures: Pictures
) -> dict[str, list[Card]]:
    first = found.sides[0]
    return {
        kind: [_card(first, later, one, pictures) for one in items]
        for kind, items in chosen(first, later, category).items()
    }


def _card(first: Side, later: Side, one: Shown, pictures: Pictures) -> Card:
    key = (one.pair, MODELS[0])
    shots = [Shot("context", pictures.context(one.pair))]
    for side in (first, later):
        number = one.run if len(side.runs) > 1 else 0
        run = side.runs[number]
        row = run.rows[key]
        seed = f", seed {number + 1} of {len(side.runs)}" if len(side.runs) > 1 else ""
        made = pictures.edit(run, row)
        shots.append(Shot(f"{side.letter}{seed}", made, bool(row["success"]), row["mae_ratio"]))
    shots.append(Shot("target", pictures.target(one.pair)))
    row = later.runs[0].rows[key]
    notes = [f"{side.letter} {_told(side, one.pair)}" for side in (first, later)]
    return Card(one.pair, row["instruction"], "; ".join(notes), tuple(shots))


def _told(side: Side, pair: str) -> str:
    """How many of a side's edits of an item succeed: `student 1 of 3, teacher 3 of 3`."""
    said = []
    for model in MODELS:
        own = [run.rows[pair, model]["success"] for run in side.runs if (pair, model) in run.rows]
        if own:
            what = ("✓" if own[0] else "✕") if len(own) == 1 else f"{sum(own)} of {len(own)}"
            said.append(f"{model} {what}")
    return ", ".join(said)


def evidence(found: Compared) -> dict[str, dict[str, list[Evidence]]]:
    """By model and category the shared items, with every outcome."""
    first: Run = found.sides[-1].runs[0]
    made: dict[str, dict[str, list[Evidence]]] = {}
    for model in MODELS:
        by_category = made.setdefault(model, {name: [] for name in found.categories})
        for pair in found.shared:
            if (pair, model) not in first.rows:
                continue
            rows = [[run.rows[pair, model] for run in side.runs] for side in found.sides]
            outcomes = tuple(tuple(bool(row["success"]) for row in own) for own in rows)
            errors = tuple(own[0]["mae_ratio"] for own in rows)
            row = first.rows[pair, model]
            one = Evidence(pair, row, noise_stream(pair), outcomes, errors)
            by_category[row["category"]].append(one)
    return {model: rows for model, rows in made.items() if any(rows.values())}


def _changes(found: Compared, store: ArtifactStore) -> list[tuple[str, str, list[Change], int]]:
    """Per later side its letter, what kind of thing differs, the first differences, and the rest.

    Of the first run of each.
    """
    told = []
    first = found.sides[0].runs[0]
    for side in found.sides[1:]:
        between = diff(store, first.ref, side.runs[0].ref)
        kinds: Mapping[str, Sequence[Change]] = {
            "settings": between.recipe,
            "code and packages": between.code,
        }
        for kind, changes in kinds.items():
            shown = list(changes[:_TOLD])
            told.append((side.letter, kind, shown, len(changes) - len(shown)))
    return told


def _picture(png: bytes) -> str:
    """A picture as an address; large ones are made smaller."""
    from PIL import Image

    image: Any = Image.open(io.BytesIO(png))
    if max(image.size) > _LARGEST:
        image.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
        out = io.BytesIO()
        image.save(out, "PNG", optimize=True)
        png = out.getvalue()
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
