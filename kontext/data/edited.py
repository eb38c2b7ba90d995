"""Programmatic edits in stage ingest: of a picture that was kept, others are made.

Which operations a picture gets is fixed by its pixels and the recipe's seed: one of each category
in turn, those that fit it and that can be seen. An edit is made on the part of the picture that is
trained on, so that none lies where nobody looks. Imported by its name, where a recipe asks for it.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import ImageColor

from kontext.data.buckets import Buckets, scaled
from kontext.data.decode import Decoded, decode_image
from kontext.data.operations import chosen, modules
from kontext.data.operations.base import Canvas, Draw, Edit, Operation, evidence
from kontext.data.pixels import Pixels, encode_png
from kontext.data.sources.base import GivenPair, SourceItem
from kontext.data.sources.stable import shuffled
from schemas.sections.data import EditsConfig, IngestConfig

VERSION = "1"  # increase it when an operation makes other pictures or says other sentences
_LEVELS = 16  # of 255, by which a pixel must differ to be seen
_CHANGED, _L1 = 0.006, 0.003  # least share of such pixels, least mean difference (of 1)


_Done = tuple[Operation, object, Edit]
Keep = Callable[[SourceItem, bytes, Decoded], object]  # takes a picture and its PNG


@dataclass(frozen=True)
class Made:
    """Pictures by their names in the source, and pairs of them: rows of EDITS."""

    pictures: dict[str, Pixels]
    pairs: list[dict[str, str]]


def modules_named(config: IngestConfig) -> list[str]:
    """Modules that make the edits."""
    return [__name__, *modules()]


def marked(
    items: Sequence[SourceItem], pairs: Sequence[GivenPair], config: EditsConfig
) -> list[SourceItem]:
    """The items; pictures of somebody's own that no pair has as an edit say that edits are made.

    Raises:
        RecipeError: an operation that there is not.
    """
    chosen(config.operations)
    used = {(p.source, ref) for p in pairs if p.contexts for ref in (*p.contexts, p.target)}
    return [
        replace(item, edits=item.payload is None and (item.source, item.ref) not in used)
        for item in items
    ]


def add(
    item: SourceItem, data: bytes, kept: Decoded, config: IngestConfig, keep: Keep
) -> list[dict[str, str]]:
    """Make the edits of one picture and hand each to `keep`. Returns rows of EDITS.

    What is made has neither labels nor a concept of its own: no miner takes it for something else.
    """
    made = make(data, kept.rgb, kept.alpha, item.ref, kept.pixel_id, config)
    for ref, rgb in made.pictures.items():
        size = rgb.shape[1], rgb.shape[0]
        picture = replace(kept, rgb=rgb, orig_size=size, format="png", frames=1)
        other = replace(item, ref=ref, concept="", attributes={}, edits=False)
        keep(other, encode_png(rgb), picture)
    return [{"source": item.source, **pair} for pair in made.pairs]


def make(data: bytes, rgb: Pixels, alpha: bool, ref: str, key: str, config: IngestConfig) -> Made:
    """The edits of one picture.

    Args:
        data: the file, read again for its transparency.
        rgb: what is kept of it, [H, W, 3].
        alpha: whether it had transparency.
        ref: its name in its source.
        key: its pixel id.
    """
    canvas = _canvas(data, rgb, alpha, config)
    here = ref if canvas.rgb is rgb else f"{ref}#part"
    made = Made({}, [])
    for operation, parameters, edit in _edits(canvas, key, config.edits):
        name = f"{ref}#{operation.name}"
        before, after = here, name
        if edit.context is not canvas.rgb:
            before = f"{name}-before"
        made.pictures[before] = edit.context
        made.pictures[after] = edit.target
        draw = Draw("sentence", key, operation.name, config.edits.seed)
        says = draw.one(operation.says(parameters))
        back = draw.one(operation.undoes(parameters)) if operation.undoes else ""
        known = _evidence(operation, parameters, edit, config.edits.seed)
        made.pairs.append(_pair(name, before, after, says, back, operation, known))
        if back:
            made.pairs.append(_pair(f"{name}-back", after, before, back, says, operation, known))
    made.pictures.pop(ref, None)  # it is there already
    return made


def _edits(canvas: Canvas, key: str, config: EditsConfig) -> Iterator[_Done]:
    """At most so many as the recipe asks for: of each category in turn one that fits and shows."""
    left = config.per_picture
    waiting = _by_category(chosen(config.operations), f"{key}-{config.seed}")
    while waiting:
        for column in list(waiting):
            fits = (_tried(operation, canvas, key, config) for operation in _taken(column))
            done = next(filter(None, fits), None)
            if done is None:
                waiting.remove(column)
                continue
            yield done
            left -= 1
            if not left:
                return


def _tried(operation: Operation, canvas: Canvas, key: str, config: EditsConfig) -> _Done | None:
    """The edit, unless the operation does not fit the picture or nobody would see it."""
    parameters = operation.draw(canvas, Draw(key, operation.name, config.seed))
    if parameters is None:
        return None
    edit = operation.apply(canvas, parameters)
    return (operation, parameters, edit) if shows(edit, canvas.unit) else None


def _by_category(operations: Sequence[Operation], key: str) -> list[list[Operation]]:
    """The operations of each category, in orders that are fixed by the key."""
    columns: dict[str, list[Operation]] = defaultdict(list)
    named = {operation.name: operation for operation in operations}
    for name in shuffled(named, key):
        columns[named[name].category].append(named[name])
    return [columns[category] for category in shuffled(columns, "category", key)]


def _taken(column: list[Operation]) -> Iterator[Operation]:
    """One after the other, each taken out of the column."""
    while column:
        yield column.pop(0)


def shows(edit: Edit, unit: float = 1.0) -> bool:
    """Whether somebody would see the difference at the size in training, `unit` times as small."""
    size = [max(1, round(side / unit)) for side in (edit.target.shape[1], edit.target.shape[0])]
    before, after = (scaled(rgb, (size[0], size[1])) for rgb in (edit.context, edit.target))
    apart = np.maximum(before, after) - np.minimum(before, after)
    changed = (apart.max(axis=2) > _LEVELS).mean()
    return bool(changed >= _CHANGED and apart.mean() / 255 >= _L1)


def _canvas(data: bytes, rgb: Pixels, alpha: bool, config: IngestConfig) -> Canvas:
    """The part of a picture that is trained on, with its transparency."""
    size = rgb.shape[1], rgb.shape[0]
    share = _alpha(data, rgb, config) if alpha else None
    fit = Buckets.of(config).fit(size)
    if not fit.cuts_nothing:
        left, top, right, bottom = (round(edge) for edge in fit.box(size))
        rgb = np.ascontiguousarray(rgb[top:bottom, left:right])
        share = None if share is None else share[top:bottom, left:right]
    red, green, blue = ImageColor.getrgb(config.background)[:3]
    return Canvas(rgb, share, (red, green, blue), min(fit.size))


def _alpha(data: bytes, rgb: Pixels, config: IngestConfig) -> NDArray[np.float32]:
    """Opacity [H, W], 0 to 1, from the picture on two backgrounds."""
    under = np.array(ImageColor.getrgb(config.background)[:3], np.int16)
    other = np.where(under < 128, 255, 0).astype(np.int16)
    again = decode_image(data, resolution=None, background="#{:02x}{:02x}{:02x}".format(*other))
    behind = scaled(again.rgb, (rgb.shape[1], rgb.shape[0])).astype(np.float32)
    through = ((behind - rgb) / (other - under)).mean(axis=2)  # share of the background
    return np.asarray(np.clip(1 - through, 0, 1), np.float32)


def _evidence(operation: Operation, parameters: object, edit: Edit, seed: int) -> str:
    """What was done, as JSON: enough to do it again, and where it can be seen."""
    mask = edit.mask
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    return json.dumps(
        {
            "operation": operation.name,
            "version": VERSION,
            "seed": seed,
            **{f"with.{name}": value for name, value in evidence(parameters).items()},
            "changed": round(float(mask.mean()), 5),
            "box": " ".join(map(str, box)),  # left, top, right, bottom in pixels
        },
        sort_keys=True,
    )


def _pair(row: str, context: str, target: str, instruction: str, inverse: str,
          operation: Operation, known: str) -> dict[str, str]:  # fmt: skip
    return {
        "row": row,
        "context": context,
        "target": target,
        "instruction": instruction,
        "inverse": inverse,
        "category": operation.category,
        "operation": operation.name,
        "evidence": known,
    }
