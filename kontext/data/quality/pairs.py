"""Scores of a table of pairs, from scores of images: one edge per context, reduced per pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kontext.data.images import ImageBank
from kontext.data.quality.pixels import Quality, quality

Rows = NDArray[np.int64]
Values = NDArray[np.float64]

_BLOCK = 1024  # edges whose pixels are in memory at once


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
        row_of = {pixel_id: row for row, pixel_id in enumerate(pixel_ids)}
        pair: list[int] = []
        context: list[int] = []
        for index, ids in enumerate(pairs["context_ids"].to_pylist()):
            pair += [index] * len(ids)
            context += [row_of[pixel_id] for pixel_id in ids]
        target = [row_of[pixel_id] for pixel_id in pairs["target_id"].to_pylist()]
        return cls(tuple(pixel_ids), np.array(target), np.array(pair, int), np.array(context, int))

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


def edge_quality(edges: Edges, bank: ImageBank) -> Quality:
    """Pixel quality of every edge, in blocks. It is symmetric: edit and inverse are scored once."""
    ends = np.sort(np.stack([edges.context, edges.target[edges.pair]], 1), axis=1)
    unique, back = np.unique(ends, axis=0, return_inverse=True)
    parts = Quality(*(np.full(len(unique), np.nan) for _ in Quality._fields))
    for start in range(0, len(unique), _BLOCK):
        block = slice(start, start + _BLOCK)
        one, other = (
            bank.batch([edges.pixel_ids[row] for row in rows]) for rows in unique[block].T
        )
        for part, values in zip(parts, quality(one, other), strict=True):
            part[block] = values
    return Quality(*(part[back.reshape(-1)] for part in parts))
