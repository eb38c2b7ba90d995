"""Scores of a table of pairs, from scores of images: one edge per context, reduced per pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kontext.data.buckets import kept_change, same_shape
from kontext.data.images import ImageBank
from kontext.data.quality.geometry import NO_CONTEXT, OTHER_SHAPE, movement, sharpness
from kontext.data.quality.pixels import CHANGED_ABOVE, Quality, quality

Rows = NDArray[np.int64]
Values = NDArray[np.float64]

_BLOCK, _PIXELS = 1024, 1 << 24  # edges whose pixels are in memory at once, and those pixels


@dataclass(frozen=True)
class Edges:
    """The images of pairs as rows of a list of pixel ids."""

    pixel_ids: tuple[str, ...]
    target: Rows  # [P]
    pair: Rows  # [E] pair of each edge
    context: Rows  # [E] context image of each edge

    @classmethod
    def of(cls, pairs: pa.Table, pixel_ids: Sequence[str]) -> Edges:
        """Edges of a PAIRS table over all images of `pixel_ids`."""
        ids, lists = pa.array(pixel_ids, pa.string()), pairs["context_ids"].combine_chunks()
        pair = np.asarray(pc.list_parent_indices(lists), np.int64)
        target = _rows(pairs["target_id"].combine_chunks(), ids)
        return cls(tuple(pixel_ids), target, pair, _rows(lists.flatten(), ids))

    @property
    def rows(self) -> tuple[Rows, Rows, Rows]:
        """Target of each pair, pair of each edge, context of each edge."""
        return self.target, self.pair, self.context

    def over_images(self, values: NDArray[np.floating]) -> Values:
        """Largest of a per-image score [M] over all images of each pair [P]. NaN stays NaN."""
        found = values[self.target].astype(np.float64)
        with np.errstate(invalid="ignore"):
            np.maximum.at(found, self.pair, values[self.context].astype(np.float64))
        return found

    def largest(self, per_edge: NDArray[np.number], empty: float) -> Values:
        """Largest of a per-edge score [E] per pair; `empty` for T2I."""
        found = np.full(len(self.target), -np.inf)
        with np.errstate(invalid="ignore"):
            np.maximum.at(found, self.pair, per_edge.astype(np.float64))
        return np.where(np.isneginf(found), empty, found)

    def smallest(self, per_edge: NDArray[np.number], empty: float) -> Values:
        """Smallest of a per-edge score [E] per pair; `empty` for T2I."""
        return -self.largest(-per_edge.astype(np.float64), -empty)


def _rows(names: pa.Array, among: pa.Array) -> Rows:
    """The row of `among` that has each name. Raises KeyError for one that none has."""
    found = pc.index_in(names, value_set=among)
    if found.null_count:
        raise KeyError(names.filter(pc.is_null(found))[0].as_py())
    return np.asarray(found, np.int64)


class Lying(NamedTuple):
    """How the targets of P pairs lie on the first of their contexts, the picture that is edited."""

    misalignment: Values  # [P], nan unless ok
    status: NDArray[np.object_]  # [P] of `movement`, or why it was not asked
    sharpness: Values  # [P], nan where neither has detail


def edge_quality(edges: Edges, bank: ImageBank) -> Quality:
    """Pixel quality of every edge, in blocks. It is symmetric: edit and inverse are scored once.

    Both pictures are seen at the size that one of them is trained at.
    """
    ends = np.sort(np.stack([edges.context, edges.target[edges.pair]], 1), axis=1)
    unique, back = np.unique(ends, axis=0, return_inverse=True)
    names = [[edges.pixel_ids[row] for row in rows] for rows in unique.T]
    parts = Quality(*(np.full(len(unique), np.nan) for _ in Quality._fields))
    for block in bank.by_size(names[1], _PIXELS, _BLOCK):
        other = [names[1][place] for place in block]
        one = [
            bank.onto(names[0][place], beside) for place, beside in zip(block, other, strict=True)
        ]
        for part, values in zip(parts, quality(np.stack(one), bank.batch(other)), strict=True):
            part[block] = values
    return Quality(*(part[back.reshape(-1)] for part in parts))


def kept_changes(edges: Edges, bank: ImageBank) -> Values:
    """The share of an edit that training sees, per pair [P] (`kept_change`).

    A picture is cut to the shape of its size in training. 1 where the first context has another
    shape than the target, and for T2I: then nothing says which pixels an edit changes.
    """
    kept = np.ones(len(edges.target))
    pairs, first = np.unique(edges.pair, return_index=True)
    for pair, edge in zip(pairs.tolist(), first.tolist(), strict=True):
        context, target = edges.pixel_ids[edges.context[edge]], edges.pixel_ids[edges.target[pair]]
        transform = bank.fit(target)
        if not transform.cuts_nothing and same_shape(bank.size(context), bank.size(target)):
            seen = bank.stored(context), bank.stored(target)
            kept[pair] = kept_change(*seen, transform, CHANGED_ABOVE)
    return kept


def lying(edges: Edges, bank: ImageBank) -> Lying:
    """`movement` and `sharpness` of every pair, at the size that its target is trained at.

    An edit and its inverse are measured once. A first context of another shape than the target's
    (`other_shape`) is a reference: it lies nowhere.
    """
    count = len(edges.target)
    status = np.full(count, NO_CONTEXT, object)
    found = Lying(np.full(count, np.nan), status, np.full(count, np.nan))
    pairs, first = np.unique(edges.pair, return_index=True)
    done: dict[tuple[str, str], tuple[float, str, float]] = {}
    for pair, edge in zip(pairs.tolist(), first.tolist(), strict=True):
        context, target = edges.pixel_ids[edges.context[edge]], edges.pixel_ids[edges.target[pair]]
        sizes = bank.size(context), bank.size(target)
        if not same_shape(*sizes):
            status[pair] = OTHER_SHAPE
            continue
        turned = sizes[0] == sizes[1] and target < context
        ends = (target, context) if turned else (context, target)
        if ends not in done:
            one, two = bank.onto(ends[0], ends[1]), bank.rgb(ends[1])
            done[ends] = (*movement(one, two), sharpness(one, two))
        moved, status[pair], sharper = done[ends]
        found.misalignment[pair] = moved
        found.sharpness[pair] = 0.0 - sharper if turned else sharper
    return found
