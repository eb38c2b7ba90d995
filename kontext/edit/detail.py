"""Restore detail that the autoencoder blurs, where an edit changed nothing or only colour.

The whole picture passes the autoencoder, so also the parts that an edit does not change lose
detail. The method:

1. Decode the edit and the unedited context. Their difference is what the edit did.
2. Take its mean over nearby pixels of one colour. A pixel and its neighbours do not count in their
   own mean, and what the mean does not explain counts little: a bird in the sky must not tint it.
3. Add the mean to the original context, which has all its detail. This also evens out blotches.
4. Where the mean does not explain the difference there is something new: keep the decoded edit.

An edit that is explained nearly everywhere is a recolouring; there, uneven colours count as
explained too. FLUX.1's autoencoder loses so little that this changes little.

Sources: bilateral guided upsampling (Chen et al. 2016); the bilateral grid (Chen, Paris and Durand
2007), less a pixel's own share, which is known exactly; Geman and McClure's weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import ceil
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SPACE = 48.0  # pixels between the grid's cells: six latent cells, beyond what one of them colours
_COLOUR = 0.15  # in -1..1: the same between its colours
_CELLS = ceil(2 / _COLOUR) + 1  # colours of a channel
_FINE = 2**24  # parts of one in the grid's sums
_OWN = 1  # pixels around one that do not count in its mean
_NEARBY = 0.3  # pixels' worth of prior: what the edit did next to a pixel, whatever the colours
_ROUNDS = 2  # of weighting down what does not fit
_OUTLIER = 0.15  # in -1..1: an error of this size counts a quarter
_MOVED = 0.15  # in -1..1: decoded pixels that the edit changed
RECOLOURED = (0.45, 0.65)  # share of those explained: from where on an edit is a recolouring


class Limits(NamedTuple):
    """Errors of the fit in -1..1: below the first of two it counts, above the second it does not.

    Attributes:
        colour: of the mean around a pixel.
        structure: the same without what is uneven over more than _BROAD pixels.
        reach: pixels around a failure in which the decoder's picture counts too.
    """

    colour: tuple[float, float]
    structure: tuple[float, float]
    reach: int


STRICT = Limits((0.3, 0.7), (0.14, 0.35), 3)
LOOSE = Limits((0.6, 1.2), (0.25, 0.6), 2)  # for what is a recolouring
_BROAD = 3
_STRIP = 256  # rows that `enlarge` reads from the grid at once


def enlarge(edited: Tensor, before: Tensor, original: Tensor, plain: Tensor) -> Tensor:
    """An edit made on a smaller picture, brought to the size of the original, [1, 3, H, W].

    The grid is filled from the small pictures and read with the original's places and colours
    (bilateral guided upsampling), so what was recoloured has the original's edges. What is new
    comes from `plain`. Memory beside the pictures does not depend on H.

    Args:
        edited: the edit [1, 3, h, w] in -1..1.
        before: what the model was given, of that size.
        original: the picture [1, 3, H, W] of which `before` is a smaller copy.
        plain: `edited` at the original's size.
    """
    difference = edited - before
    grid, weight = _robust(difference, before)
    shift = grid.means(difference, weight)
    sums, near = grid.sums(difference, weight), _NEARBY * _blurred(difference, _BROAD)
    size = original.shape[2:]
    fit = F.interpolate(fitness(difference, shift), size, mode="bilinear")
    near = F.interpolate(near, size, mode="bilinear")
    out = plain.clone()
    for low in range(0, size[0], _STRIP):
        rows = slice(low, low + _STRIP)
        total = grid.at(original, rows).read(sums)
        moved = (total[:, :3] + near[:, :, rows]) / (total[:, 3:].clamp(min=0) + _NEARBY)
        out[:, :, rows] = plain[:, :, rows].lerp(original[:, :, rows] + moved, fit[:, :, rows])
    return out


def restore_detail(edited: Tensor, round_trip: Tensor, context: Tensor) -> Tensor:
    """The edit with the context's detail restored, [B, 3, H, W] in about -1..1.

    Time and memory are linear in the number of pixels.

    Args:
        edited: the decoded edit [B, 3, H, W] in -1..1, of the context's size.
        round_trip: the context, encoded and decoded by the same autoencoder.
        context: the context itself.
    """
    difference = edited - round_trip
    shift = colour_shift(difference, context)
    return edited.lerp(context + shift, fitness(difference, shift))


def colour_shift(difference: Tensor, guide: Tensor) -> Tensor:
    """Means of `difference` [B, 3, H, W] over nearby pixels in which `guide` has similar colours.

    Where there are none, as along a drawing's edges: over the adjacent pixels.
    """
    grid, weight = _robust(difference, guide)
    return grid.means(difference, weight)


def _robust(difference: Tensor, guide: Tensor) -> tuple[_Grid, Tensor]:
    """The grid over `guide`, and weights [B, 1, H, W]: what the means do not explain has little."""
    grid = _Grid.over(guide)
    weight = torch.ones_like(difference[:, :1])
    for _ in range(_ROUNDS):
        off = _worst(difference - grid.means(difference, weight))
        weight = (1 + (off / _OUTLIER) ** 2) ** -2
    return grid, weight


def fitness(difference: Tensor, shift: Tensor) -> Tensor:
    """Share [B, 1, H, W], 0 to 1, to which `shift` explains `difference` (both [B, 3, H, W])."""
    error = difference - shift
    strict, loose = _within(error, STRICT), _within(error, LOOSE)
    moved = (difference.abs().amax(dim=1, keepdim=True) > _MOVED).float()
    # an edit that moves nothing at all is one
    explained = ((strict * moved).sum((1, 2, 3)) + 1) / (moved.sum((1, 2, 3)) + 1)
    recoloured = 1 - _falling(explained, *RECOLOURED)
    return strict.lerp(loose, recoloured.view(-1, 1, 1, 1))


def _within(error: Tensor, limits: Limits) -> Tensor:
    """1 where an error is within limits, falling to 0."""
    shares = [
        _falling(F.max_pool2d(_worst(each), 2 * limits.reach + 1, 1, limits.reach), *bounds)
        for each, bounds in (
            (error, limits.colour),
            (error - _blurred(error, _BROAD), limits.structure),
        )
    ]
    return torch.minimum(*shares)


def _worst(error: Tensor) -> Tensor:
    """The channel that is furthest off around a pixel, [B, 1, H, W]."""
    return _blurred(error, 1).abs().amax(dim=1, keepdim=True)


def _blurred(picture: Tensor, radius: int) -> Tensor:
    return F.avg_pool2d(picture, 2 * radius + 1, 1, radius, count_include_pad=False)


def _falling(x: Tensor, start: float, end: float) -> Tensor:
    """1 up to `start`, 0 from `end` on, smooth between."""
    share = ((end - x) / (end - start)).clamp(0, 1)
    return share * share * (3 - 2 * share)


class _Axis(NamedTuple):
    """Where pixels [B, H, W] lie on one axis of the grid: between cell `low` and the next."""

    low: Tensor
    part: Tensor  # of the way to the next cell
    cells: int

    @classmethod
    def of(cls, position: Tensor, cells: int) -> _Axis:
        low = position.clamp(0, cells - 1).floor().clamp(max=cells - 2)
        return cls(low.long(), position.clamp(0, cells - 1) - low, cells)

    def weight(self, upper: bool) -> Tensor:
        return self.part if upper else 1 - self.part

    def shared(self, other: _Axis) -> Tensor:
        """What pixels get from others through the cells that both lie at."""
        apart = other.low - self.low
        same = (1 - self.part) * (1 - other.part) + self.part * other.part
        above, below = self.part * (1 - other.part), (1 - self.part) * other.part
        nothing = torch.zeros_like(same)
        near = torch.where(apart == 1, above, torch.where(apart == -1, below, nothing))
        return torch.where(apart == 0, same, near)

    def moved(self, y: int, x: int) -> _Axis:
        """The pixels that lie so far away."""
        return _Axis(_moved(self.low, y, x), _moved(self.part, y, x), self.cells)


class _Grid:
    """A bilateral grid over a guide [B, 3, H, W]: place and colour, read between the cells."""

    def __init__(
        self, guide: Tensor, rows: Tensor, columns: Tensor, cells: tuple[int, int]
    ) -> None:
        """`rows` [H] and `columns` [W]: where the guide's pixels lie, in the grid's pixels."""
        self._shape = batch, _, height, width = guide.shape
        self._cells = cells
        flat = guide.new_zeros(batch, height, width)
        self._axes = [
            _Axis.of(flat + rows.view(1, -1, 1) / SPACE, cells[0]),
            _Axis.of(flat + columns.view(1, 1, -1) / SPACE, cells[1]),
            *(_Axis.of((guide[:, channel] + 1) / _COLOUR, _CELLS) for channel in range(3)),
        ]

    @classmethod
    def over(cls, guide: Tensor) -> _Grid:
        height, width = guide.shape[2:]
        rows, columns = (torch.arange(n, device=guide.device) for n in (height, width))
        cells = (2 + int((height - 1) / SPACE), 2 + int((width - 1) / SPACE))
        return cls(guide, rows, columns, cells)

    def at(self, larger: Tensor, rows: slice) -> _Grid:
        """The same cells, at the pixels of some rows of a larger copy of the guide."""
        places = (
            (torch.arange(n, device=larger.device) + 0.5) * (own / n) - 0.5
            for n, own in zip(larger.shape[2:], self._shape[2:], strict=True)
        )
        down, across = (place.clamp(min=0) for place in places)
        return _Grid(larger[:, :, rows], down[rows], across, self._cells)

    def means(self, values: Tensor, weight: Tensor) -> Tensor:
        """Weighted means of `values` [B, 3, H, W] over like pixels, each without its own part."""
        weighted = torch.cat((values * weight, weight), dim=1)
        total = self.read(self.sums(values, weight)) - self._own(weighted)
        found = total[:, :3] + _NEARBY * _blurred(values, _BROAD)
        return found / (total[:, 3:].clamp(min=0) + _NEARBY)

    def sums(self, values: Tensor, weight: Tensor) -> Tensor:
        """What the pixels add up to in every cell, [cells, 4]: weighted values, and weights."""
        weighted = torch.cat((values * weight, weight), dim=1)
        rows = weighted.permute(0, 2, 3, 1).reshape(-1, 4)
        cells = self._shape[0]
        for axis in self._axes:
            cells *= axis.cells
        # sums of whole numbers are the same in any order: a GPU adds in another one every time
        sums = torch.zeros(cells, 4, dtype=torch.int64, device=rows.device)
        for place, share in self._corners():
            sums.index_add_(0, place, (rows * share * _FINE).round().long())
        return (sums.double() / _FINE).to(rows)

    def read(self, sums: Tensor) -> Tensor:
        """The cells around every pixel, [B, 4, H, W]."""
        batch, _, height, width = self._shape
        read = sums.new_zeros(batch * height * width, 4)
        for place, share in self._corners():
            read.addcmul_(sums[place], share)
        return read.view(batch, height, width, 4).permute(0, 3, 1, 2)

    def _corners(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Cells [N] around every pixel, and the weights [N, 1] that it has in them."""
        number = torch.arange(self._shape[0], device=self._axes[0].low.device).view(-1, 1, 1)
        for corner in product((False, True), repeat=len(self._axes)):
            place, share = number, torch.ones_like(self._axes[0].part)
            for axis, upper in zip(self._axes, corner, strict=True):
                place = place * axis.cells + axis.low + int(upper)
                share = share * axis.weight(upper)
            yield place.reshape(-1), share.reshape(-1, 1)

    def _own(self, weighted: Tensor) -> Tensor:
        """What pixels give to themselves and to those next to them, [B, 4, H, W]."""
        total = torch.zeros_like(weighted)
        inside = torch.ones_like(self._axes[0].part)
        for y, x in product(range(-_OWN, _OWN + 1), repeat=2):
            share = _moved(inside, y, x)
            for axis in self._axes:
                share = share * axis.shared(axis.moved(y, x))
            total.addcmul_(share[:, None], _moved(weighted, y, x))
        return total


def _moved(picture: Tensor, y: int, x: int) -> Tensor:
    """[..., H, W] as seen from (y, x) further; zero outside."""
    height, width = picture.shape[-2:]
    padded = F.pad(picture, (_OWN, _OWN, _OWN, _OWN))
    return padded[..., _OWN + y : _OWN + y + height, _OWN + x : _OWN + x + width]
