"""Editors that are wrong on purpose: a definition of success has to refuse each of them.

They need no model. Some see the target and spoil it, the others copy from the train split's edits.
Lengths are in pixels of a picture of 64 and grow with it. Images are uint8 [N, H, W, 3].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from kontext.data.buckets import Size
from kontext.data.shards.read import PairRow, PairSet
from kontext.evaluate.benches.held_out import Bench, asked, resized
from kontext.evaluate.pixels import Images, Picture, as_images, blurred

NEIGHBOURS = 8  # training edits that are averaged, or whose colours make a palette
_THUMB = 8  # side, in pixels, of the pictures by which neighbours are found
_MOST = 400  # training edits that ask for the same, of which the neighbours are chosen
_COLOURS = 4096  # pixels of a palette
_SIDE, _BLUR, _PATCH = 64, 3, 10


@dataclass(frozen=True)
class TrainingEdits:
    """Edits of the train split with one context, and the rows of those that ask for the same."""

    context: Images
    target: Images
    rows: dict[tuple[str, str], NDArray[np.int64]]  # by relation and what is asked

    @classmethod
    def of(cls, bench: Bench, pairs: PairSet) -> TrainingEdits:
        """Those that ask for what a bench's items ask for, at most `_MOST` for each."""
        wanted: dict[tuple[str, str], list[PairRow]] = {
            (item.relation, item.asked): [] for item in bench.items
        }
        for row in pairs.rows:
            found = wanted.get((row.relation, asked(row)))
            if found is None or len(row.contexts) != 1 or len(found) >= _MOST:
                continue
            if pairs.size(row.contexts[0]) == pairs.size(row.target):
                found.append(row)
        chosen = [row for found in wanted.values() for row in found]
        ends = np.cumsum([len(found) for found in wanted.values()])
        parts = np.split(np.arange(len(chosen), dtype=np.int64), ends[:-1])
        return cls(
            as_images(pairs.pictures([row.contexts[0] for row in chosen])),
            as_images(pairs.pictures([row.target for row in chosen])),
            dict(zip(wanted, parts, strict=True)),
        )

    def at(self, size: Size) -> TrainingEdits:
        """The same edits at one size."""
        if self.context.dtype != object and self.context.shape[1:3] == size[::-1]:
            return self
        pictures = ([resized(x, size) for x in side] for side in (self.context, self.target))
        context, target = (np.stack(made) if made else self.context[:0] for made in pictures)
        return replace(self, context=context, target=target)

    def nearest(self, context: Picture, relation: str, asked_for: str) -> list[int]:
        """Rows of edits that ask for this, the nearest context first, at most NEIGHBOURS."""
        rows = self.rows.get((relation, asked_for), np.zeros(0, np.int64))
        if not len(rows):
            return []
        far = np.square(thumbs(self.context[rows]) - thumbs(context[None])).sum(axis=(1, 2, 3))
        return [int(row) for row in rows[np.argsort(far, kind="stable")[:NEIGHBOURS]]]


@dataclass(frozen=True)
class Case:
    """What a false editor has: an item of the bench, and the training edits nearest to it."""

    bench: Bench
    row: int
    near: Sequence[int]
    training: TrainingEdits

    @property
    def context(self) -> Picture:
        """The item's context."""
        return np.asarray(self.bench.context[self.row])

    @property
    def target(self) -> Picture:
        """The item's target."""
        return np.asarray(self.bench.target[self.row])

    def pixels(self, length: float) -> float:
        """A length of a picture of 64, in this one."""
        height, width = self.context.shape[:2]
        return float(length * max(1.0, height / _SIDE, width / _SIDE))


def _rounded(picture: NDArray[np.floating]) -> Picture:
    return np.asarray(np.clip(np.rint(picture), 0, 255), np.uint8)


def _ghost(share: float, case: Case) -> Picture:
    context, target = case.context.astype(np.float32), case.target.astype(np.float32)
    return _rounded(context + share * (target - context))


def _blurred(case: Case) -> Picture:
    sigma = case.pixels(_BLUR)
    return _rounded(blurred(case.target[None], sigma)[0])


def _filled(case: Case) -> Picture:
    picture, mask = case.context.copy(), case.bench.mask[case.row]
    picture[mask] = np.rint(case.target[mask].mean(axis=0))
    return picture


def _half(case: Case) -> Picture:
    """The upper half of what should change, by its pixels."""
    mask = case.bench.mask[case.row]
    done = mask & (np.cumsum(mask).reshape(mask.shape) <= mask.sum() / 2)
    picture = case.context.copy()
    picture[done] = case.target[done]
    return picture


def _stray(case: Case) -> Picture:
    """The target, with a patch of another item's where it overlaps the change the least."""
    side = round(case.pixels(_PATCH))
    free = np.lib.stride_tricks.sliding_window_view(case.bench.mask[case.row], (side, side))
    top, left = np.unravel_index(int(free.sum(axis=(2, 3)).argmin()), free.shape[:2])
    place = np.s_[top : top + side, left : left + side]
    patches = np.stack([target[place] for target in case.bench.all_targets])
    unlike = np.abs(patches.astype(np.int16) - case.target[place]).mean(axis=(1, 2, 3))
    picture = case.target.copy()
    picture[place] = patches[int(unlike.argmax())]
    return picture


def _other_choice(case: Case) -> Picture:
    rivals = case.bench.rivals.get(case.row)
    return case.context if rivals is None else np.asarray(rivals[0])


def _nearest(case: Case) -> Picture:
    return np.asarray(case.training.target[case.near[0]])


def _mean(case: Case) -> Picture:
    return _rounded(case.training.target[list(case.near)].mean(axis=0))


def _pasted(case: Case) -> Picture:
    first, training = case.near[0], case.training
    change = training.target[first].astype(np.float32) - training.context[first]
    return _rounded(case.context + change)


def _palette(case: Case) -> Picture:
    """Each colour becomes what its nearest colours became in the neighbours."""
    rows = list(case.near)
    before = case.training.context[rows].reshape(-1, 3).astype(np.float32)
    after = case.training.target[rows].reshape(-1, 3).astype(np.float32)
    picks = np.linspace(0, len(before) - 1, min(_COLOURS, len(before))).astype(np.int64)
    colours, places = np.unique(case.context.reshape(-1, 3), axis=0, return_inverse=True)
    known = torch.from_numpy(before[picks])
    asked_for, became = torch.from_numpy(colours.astype(np.float32)), []
    for start in range(0, len(asked_for), _COLOURS):
        far = torch.cdist(asked_for[start : start + _COLOURS], known)
        became.append(after[picks][far.topk(NEIGHBOURS, largest=False).indices].mean(axis=1))
    return _rounded(np.concatenate(became)[places.reshape(-1)].reshape(case.context.shape))


def _trained(make: Callable[[Case], Picture]) -> Callable[[Case], Picture]:
    """`make`, or the context where training has no edit that asks for the same."""
    return lambda case: make(case) if case.near else case.context


FALSE_EDITORS: dict[str, Callable[[Case], Picture]] = {
    "ghost_31": partial(_ghost, 0.31),
    "ghost_51": partial(_ghost, 0.51),
    "blurred": _blurred,
    "filled": _filled,
    "half": _half,
    "stray": _stray,
    "other_choice": _other_choice,
    "nearest": _trained(_nearest),
    "mean_nearest": _trained(_mean),
    "pasted": _trained(_pasted),
    "palette": _trained(_palette),
}


def run_false_editors(bench: Bench, training: TrainingEdits) -> dict[str, Images]:
    """Outputs of every false editor on every item, in the order of FALSE_EDITORS."""
    cases: dict[int, Case] = {}
    for rows, part in bench.parts:
        known = training.at(part.sizes[0])
        for i, item in enumerate(part.items):
            near = known.nearest(part.context[i], item.relation, item.asked)
            cases[int(rows[i])] = Case(part, i, near, known)
    in_turn = [cases[row] for row in range(len(bench))]
    return {
        name: as_images([make(case) for case in in_turn]) for name, make in FALSE_EDITORS.items()
    }


def thumbs(images: Images) -> NDArray[np.float32]:
    """Means of square cells, float32 [N, 8, 8, 3]; pixels that fill no cell are left out."""
    n, height, width = images.shape[:3]
    rows, columns = height // _THUMB, width // _THUMB
    cut = images[:, : rows * _THUMB, : columns * _THUMB].astype(np.float32)
    return np.asarray(cut.reshape(n, _THUMB, rows, _THUMB, columns, 3).mean(axis=(2, 4)))
