"""Convolutions over an image that does not fit in memory: tile by tile, with the same result.

- Every tile is computed with a halo as wide as the receptive field, which is cut off again.
- GroupNorm needs the mean and variance of the whole image. So there are several passes over the
  tiles. Each runs up to the first norm whose statistics are not known yet, and pools them. The last
  pass knows all of them and runs to the end.

The result is that of the whole image, up to rounding, and without seams. The price: later passes
compute the early layers again. Overlapping tiles that are blended (diffusers' `enable_tiling`) take
one pass, but keep each tile's own statistics and attention, which shows as patches of another tone.
`benchmarks/tiling.py` measures both.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn

_log = logging.getLogger("kontext")

Moments = tuple[Tensor, Tensor]  # mean and variance, float64 [B, groups] each


# side of a tile without its halo, in pixels of the finer resolution of each level: one activation
# of FLUX.1's widest level has 128 MiB in fp32
TILE = 256


class Norm(nn.GroupNorm):
    """GroupNorm that can be given its statistics, for tiles of one image."""

    statistics: Callable[[Norm, Tensor], Moments] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> the same shape, by `statistics` where they are given."""
        if self.statistics is None:
            return super().forward(x)
        mean, variance = self.statistics(self, x)
        each = self.num_channels // self.num_groups
        mean, std = (
            m.repeat_interleave(each, 1) for m in (mean, (variance + self.eps).sqrt())
        )  # [B, C]
        scale = self.weight / std
        shift = self.bias - mean * scale
        scale, shift = (m[..., None, None].to(self.weight.dtype) for m in (scale, shift))
        return x * scale + shift


@dataclass(frozen=True)
class _Span:
    """A tile along one side, in cells: [start, stop) with its halo, [first, last) without."""

    start: int
    stop: int
    first: int
    last: int

    def whole(self, unit: int) -> slice:
        return slice(self.start * unit, self.stop * unit)

    def core(self, unit: int) -> slice:
        return slice(self.first * unit, self.last * unit)

    def inner(self, size: int) -> slice:
        """The core inside a tensor of `size` that covers the tile, at either resolution."""
        unit = size // (self.stop - self.start)
        return slice((self.first - self.start) * unit, (self.last - self.start) * unit)


_Tile = tuple[_Span, _Span]


def _spans(length: int, core: int, halo: int) -> list[_Span]:
    """Cores of nearly equal length, at most `core`."""
    count = math.ceil(length / core)
    edges = [i * length // count for i in range(count + 1)]
    return [
        _Span(max(0, first - halo), min(length, last + halo), first, last)
        for first, last in pairwise(edges)
    ]


class _Measured(Exception):
    """Raised to stop a tile at the norm whose statistics this pass collects."""


@dataclass
class _Pool:
    """GroupNorm statistics over all tiles: those known, and the one this pass collects."""

    known: dict[Norm, Moments] = field(default_factory=dict)
    parts: list[tuple[int, Tensor, Tensor]] = field(default_factory=list)
    norm: Norm | None = None
    tile: _Tile | None = None

    def __call__(self, norm: Norm, x: Tensor) -> Moments:
        if norm in self.known:
            return self.known[norm]
        assert self.tile is not None
        rows, columns = (s.inner(n) for s, n in zip(self.tile, x.shape[-2:], strict=True))
        core = x[:, :, rows, columns].reshape(len(x), norm.num_groups, -1).float()
        variance, mean = torch.var_mean(core, 2, correction=0)
        self.parts.append((core.shape[2], mean.double(), variance.double()))
        self.norm = norm
        raise _Measured

    def settle(self) -> bool:
        """Pool what the pass collected. False: there was nothing left to collect."""
        if self.norm is None:
            return False
        counts, means, variances = zip(*self.parts, strict=True)
        share = torch.tensor(counts, dtype=torch.float64, device=means[0].device)
        share = (share / share.sum())[:, None, None]
        each = torch.stack(means)
        mean = (share * each).sum(0)
        variance = (share * (torch.stack(variances) + (each - mean).square())).sum(0)
        self.known[self.norm] = (mean, variance)
        self.norm, self.parts = None, []
        return True


@torch.no_grad()
def in_tiles(
    module: nn.Module,
    run: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    units: tuple[int, int],
    halo: int,
    tile: int,
) -> Tensor:
    """`run(x)`, tile by tile. `run` uses `module`'s convolutions, its `Norm`s, pointwise functions.

    Two threads must not use one module at the same time.

    Args:
        x: [B, C, H, W]; the sides are multiples of the first unit.
        units: pixels of a cell along one side, in `x` and in the result; a cell is a pixel of the
            coarser of the two.
        halo: the receptive field beyond a cell, in cells.
        tile: side of a tile without its halo, in pixels of the finer of the two resolutions.

    Returns:
        [B, C', H * out / in, W * out / in], without gradients.

    Raises:
        ValueError: sides that are not whole cells, or no tile at all.
    """
    before = units[0]
    height, width = x.shape[-2:]
    if height % before or width % before:
        raise ValueError(f"{width} x {height} pixels are not whole cells of {before} x {before}")
    if tile < max(units):
        raise ValueError(f"a tile has at least {max(units)} pixels a side, not {tile}")
    core = tile // max(units)
    rows, columns = (_spans(side // before, core, halo) for side in (height, width))
    tiles = [(row, column) for row in rows for column in columns]
    if len(tiles) == 1:
        return run(x)
    pool, norms = _Pool(), [m for m in module.modules() if isinstance(m, Norm)]
    try:
        for norm in norms:
            norm.statistics = pool
        out = _one_pass(run, x, tiles, units, pool)
        while pool.settle():
            out = _one_pass(run, x, tiles, units, pool)
    finally:
        for norm in norms:
            norm.statistics = None
    assert out is not None
    _log.debug("%d x %d in %d tiles, %d norms", width, height, len(tiles), len(pool.known))
    return out


def _one_pass(
    run: Callable[[Tensor], Tensor],
    x: Tensor,
    tiles: Sequence[_Tile],
    units: tuple[int, int],
    pool: _Pool,
) -> Tensor | None:
    """The result; or None where every tile ended at a norm."""
    before, after = units
    out: Tensor | None = None
    for row, column in tiles:
        pool.tile = (row, column)
        try:
            made = run(x[:, :, row.whole(before), column.whole(before)])
        except _Measured:
            continue
        if out is None:
            sides = (side // before * after for side in x.shape[-2:])
            out = made.new_empty((*made.shape[:2], *sides))
        inner = made[:, :, row.inner(made.shape[2]), column.inner(made.shape[3])]
        out[:, :, row.core(after), column.core(after)] = inner
    return out
