"""The edits of a run: every item once, through the guard that `kontext edit` uses.

Whatever comes of an item is a row: a refusal, a picture that cannot be read and an edit that
failed are outcomes with names of their own, and have no scores.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kontext.data.decode import decode_image
from kontext.data.pixels import Pixels, pixel_id
from kontext.edit.provenance.read import chain_of
from kontext.errors import (
    BenchError,
    DecodeError,
    GateError,
    KontextError,
    SafetyRefusal,
    StoreError,
)
from kontext.evaluate.benches.files import PictureAt
from kontext.evaluate.benches.public import BenchItem, Loaded
from kontext.evaluate.measures.base import Mask
from kontext.evaluate.public.editors import BenchEditor
from kontext.evaluate.public.journal import Journal, Row, write_whole
from kontext.safety.edits import EditScreening
from kontext.safety.guard import EditGuard

CHANGES_RESULTS = False  # for users; no stage runs a public bench

OUTCOMES = {
    "edited": "edited",
    "refused": "refused by the safety policy",
    "failed": "the editor failed",
    "unreadable": "the picture cannot be read",
    "unusable": "not as published",
    "no_context": "the turn before has no result",
}
RETRIED = ("failed", "no_context", "unreadable")


@dataclass(frozen=True)
class Work:
    """What every item is edited with."""

    loaded: Loaded
    editor: BenchEditor
    guard: EditGuard
    journal: Journal
    seed: int = 0


def edit_items(work: Work, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Edit all items that the journal has no row of, in the set's order.

    Raises:
        BenchError: the editor cannot draw from words and the set wants it, or cannot be started.
        GateError, StoreError: nothing can be checked, or written down.
    """
    items, unusable = work.loaded.items, work.loaded.unusable
    if not work.editor.draws and any(item.context is None for item in items):
        raise BenchError(f"{work.loaded.bench.title} has texts, no pictures that this can edit")
    by_id = {item.id: item for item in items}
    for number, item in enumerate(items):
        progress(number, len(items))
        if item.id in work.journal.rows:
            continue
        begun = time.monotonic()
        if item.id in unusable:
            problem = unusable[item.id]
            row = _row("unusable", problem.kind, problem.says)
        else:
            row = _outcome(item, by_id, work)
        seconds = round(time.monotonic() - begun, 3)
        work.journal.add({"item": item.id, **row, "seconds": seconds})
    progress(len(items), len(items))


def _row(outcome: str, reason: str = "", problem: str = "", **more: Any) -> Row:
    return {"outcome": outcome, "reason": reason, "problem": problem, **more}


def _outcome(item: BenchItem, by_id: Mapping[str, BenchItem], work: Work) -> Row:
    screening = work.guard.begin()
    try:
        before = _earlier(item, by_id, work)
        if before is None:
            return _row("no_context", problem=f"item {item.after} has no result")
        said, source = before
        screening.check_instruction(item.instruction)
        screening.check_together((*said, item.instruction))
        read = [] if source is None else [_read(source, screening)]
        for image, data in read:
            screening.check_input(image, data, chain_of(data))
        if item.target is not None:
            _read(item.target)  # it is compared with later: an unreadable one is an outcome now
        mask = None if item.mask is None else mask_of(item.mask.read())
        return _edited(item, [image for image, _ in read], mask, screening, work)
    except SafetyRefusal as error:
        return _row("refused", error.reason, str(error))
    except DecodeError as error:
        return _row("unreadable", error.reason, str(error))


def _edited(
    item: BenchItem,
    images: list[Pixels],
    mask: Mask | None,
    screening: EditScreening,
    work: Work,
) -> Row:
    path = work.journal.picture(item.id)
    if path.is_file():  # of a process that was killed before it could write the line
        made = decode_image(path.read_bytes(), resolution=None, background="#ffffff").rgb
    else:
        try:
            made = work.editor.make(images, item.instruction, work.seed)
        except (BenchError, GateError, StoreError, SafetyRefusal):
            raise
        except KontextError as error:
            return _row("failed", type(error).__name__, str(error))
        screening.check_result(made)
        data = work.editor.png(images, item.instruction, work.seed, made, screening)
        screening.commit()
        write_whole(path, data)
    context = images[0] if images else None
    if mask is not None and (context is None or mask.shape != context.shape[:2]):
        return _row("unreadable", "mask", f"item {item.id}: the mask has another size")
    size = {"width": made.shape[1], "height": made.shape[0]}
    ids = {"output": pixel_id(made), "context": "" if context is None else pixel_id(context)}
    return _row("edited", picture=path.name, **ids, **size)


def _earlier(
    item: BenchItem, by_id: Mapping[str, BenchItem], work: Work
) -> tuple[list[str], PictureAt | None] | None:
    """Instructions of the turns before, and the picture that is edited; None: there is none."""
    said: list[str] = []
    at = item
    while at.after:
        at = by_id[at.after]
        said.insert(0, at.instruction)
    if not item.after:
        return said, item.context
    if work.journal.rows.get(item.after, {}).get("outcome") != "edited":
        return None
    return said, PictureAt(work.journal.picture(item.after))


def _read(picture: PictureAt, screening: EditScreening | None = None) -> tuple[Pixels, bytes]:
    """Pixels and bytes. With a screening the pictures behind the first are matched, too."""
    data = picture.read()
    later = screening.sees_frame if screening else None
    found = decode_image(data, resolution=None, background="#ffffff", later=later).rgb
    if screening:
        screening.check_frames(found)
    return found, data


def mask_of(data: bytes) -> Mask:
    """Where a picture may change: where a mask is transparent, or, without that, white."""
    white = decode_image(data, resolution=None, background="#ffffff").rgb
    black = decode_image(data, resolution=None, background="#000000").rgb
    clear: Mask = (white != black).any(axis=2)
    return clear if clear.any() else np.asarray(white.mean(axis=2) > 127)
