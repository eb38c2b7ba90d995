"""Buckets: the sizes that pictures are trained at, and the one transform that brings them there.

A picture goes to the size whose shape is nearest to its own: the largest centred part of that shape
is resized with Lanczos, so nothing is stretched and no border is added. A context that has its
target's shape goes through the target's own transform, whatever its number of pixels, so the two
lie on each other as they did before. One of another shape has a size of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from schemas.sections.data import IngestConfig

if TYPE_CHECKING:
    from kontext.data.pixels import Pixels

Size = tuple[int, int]  # width, height in pixels

WHOLE = 1 / 3  # share of pixels: an edit that changes as many is one of the whole picture
_ROUNDED = 0.01  # share of its own by which a context's shape may differ from its target's
MULTIPLE = 16  # 8x autoencoder, 2x2 latents per token
_NEAR = 1.05  # shapes this much apart are taken for one where sizes are rounded
_PORTRAIT: tuple[Size, ...] = (
    (672, 1568),
    (688, 1504),
    (720, 1456),
    (752, 1392),
    (800, 1328),
    (832, 1248),
    (880, 1184),
    (944, 1104),
)
# of about a megapixel; source: black-forest-labs/flux `PREFERED_KONTEXT_RESOLUTIONS`
KONTEXT_SIZES: tuple[Size, ...] = (
    *_PORTRAIT,
    (1024, 1024),
    *((h, w) for w, h in reversed(_PORTRAIT)),
)


@dataclass(frozen=True)
class Fit:
    """The transform: which part of a picture is kept, as shares of its sides, and at which size."""

    left: float
    top: float
    right: float
    bottom: float
    size: Size

    def __call__(self, rgb: Pixels) -> Pixels:
        """Pixels [H, W, 3] at `size`: [height, width, 3]."""
        size = (rgb.shape[1], rgb.shape[0])
        if self.keeps(size):
            return rgb
        # here, because training reads the sizes where there is no PIL
        from PIL import Image

        image = Image.fromarray(np.ascontiguousarray(rgb))
        lanczos = Image.Resampling.LANCZOS
        return np.asarray(image.resize(self.size, lanczos, box=self.box(size)), np.uint8)

    def box(self, picture: Size) -> tuple[float, float, float, float]:
        """What is kept of a picture of that size: left, top, right, bottom in its pixels."""
        width, height = picture
        return self.left * width, self.top * height, self.right * width, self.bottom * height

    def keeps(self, picture: Size) -> bool:
        """Whether a picture of that size stays as it is, pixel by pixel."""
        return picture == self.size and self.cuts_nothing

    @property
    def cuts_nothing(self) -> bool:
        """Whether nothing is cut off."""
        return (self.left, self.top, self.right, self.bottom) == (0, 0, 1, 1)


def fit(picture: Size, size: Size) -> Fit:
    """The largest centred part of a picture (width, height) that has the shape of `size`."""
    width, height = picture
    wide = width * size[1] - height * size[0]  # above 0: wider than the size
    across = (1 - height * size[0] / (width * size[1])) / 2 if wide > 0 else 0.0
    down = (1 - width * size[1] / (height * size[0])) / 2 if wide < 0 else 0.0
    return Fit(across, down, 1 - across, 1 - down, size)


def scaled(rgb: Pixels, size: Size) -> Pixels:
    """All of a picture [H, W, 3] at another number of pixels."""
    return whole(size)(rgb)


def whole(size: Size) -> Fit:
    """All of a picture, at `size`."""
    return Fit(0, 0, 1, 1, size)


def kontext_shapes(side: int) -> tuple[Size, ...]:
    """FLUX.1 Kontext's shapes at an area of `side` squared, each once; at 1,024 its 17 sizes.

    Where few multiples of 16 make up a side, rounding alone would make another shape of many, and
    a crop of the photographs that have it: such a shape gets the size nearest to it instead, of
    half to one and a half times the area.
    """
    return tuple(dict.fromkeys(_shaped(size, side) for size in KONTEXT_SIZES))


def _shaped(shape: Size, side: int) -> Size:
    """The size, in multiples of 16, for a shape at an area of `side` squared."""
    width, height = (max(1, round(n * side / 1024 / MULTIPLE)) * MULTIPLE for n in shape)
    if _apart((width, height), shape) <= _NEAR:
        return width, height
    area, sides = side * side, range(MULTIPLE, 4 * side + 1, MULTIPLE)
    sizes = [(w, h) for w in sides for h in sides if area <= 2 * w * h <= 3 * area]
    # among shapes that are near enough, the area decides
    return min(sizes, key=lambda own: (max(_NEAR, _apart(own, shape)), abs(own[0] * own[1] - area)))


def _apart(one: Size, other: Size) -> float:
    """How many times wider one shape is than the other, or the other than it."""
    wider = one[0] * other[1] / (one[1] * other[0])
    return max(wider, 1 / wider)


def nearest(sizes: Sequence[Size], picture: Size) -> Size:
    """The size whose aspect ratio differs least from a picture's, as FLUX.1 Kontext chooses."""
    return _of_shape(sizes, picture[0] / picture[1])


def _of_shape(sizes: Sequence[Size], aspect: float) -> Size:
    return min(sizes, key=lambda size: (abs(aspect - size[0] / size[1]), size))


def same_shape(one: Size, other: Size) -> bool:
    """Whether one is the other at another scale, but for a pixel that rounding took or gave."""
    return abs(one[0] * other[1] - one[1] * other[0]) <= max(*one, *other)


def shrunk(picture: Size, most: int) -> Size:
    """The size of a picture whose longer side is at most `most` pixels, in its own shape."""
    longer = max(picture)
    if longer <= most:
        return picture
    width, height = (max(1, round(side * most / longer)) for side in picture)
    return width, height


@dataclass(frozen=True)
class Buckets:
    """Sizes (width, height) that pictures are trained at."""

    sizes: tuple[Size, ...]

    @classmethod
    def of(cls, config: IngestConfig) -> Buckets:
        """Those that the recipe names."""
        side = config.resolution
        if config.sizes == "square":
            return cls(((side, side),))
        return cls(kontext_shapes(side) if config.sizes == "kontext" else config.sizes)

    def nearest(self, picture: Size) -> Size:
        """The size of a picture (width, height)."""
        return nearest(self.sizes, picture)

    def fit(self, picture: Size, beside: Size | None = None) -> Fit:
        """The transform of a picture (width, height).

        Args:
            beside: the size of the target that it is a context of.
        """
        if beside is not None and same_shape(picture, beside):
            picture = beside
        return fit(picture, self.nearest(picture))

    def forms(self, picture: Size) -> tuple[Fit, ...]:
        """Every transform that a stored picture (width, height) may be read by, its own first.

        A context goes to its target's size. Rounding lets the shapes of the two differ, so one
        whose shape is near the middle between two sizes may be read at either.
        """
        aspect = picture[0] / picture[1]
        low, high = aspect * (1 - _ROUNDED), aspect * (1 + _ROUNDED)
        between = [size for size in self.sizes if low <= size[0] / size[1] <= high]
        ends = (_of_shape(self.sizes, end) for end in (low, high))
        sizes = dict.fromkeys((self.nearest(picture), *ends, *between))
        return tuple(fit(picture, size) for size in sizes)

    def cover(self, picture: Size) -> Size:
        """The least size, of the picture's own shape, that its transform makes no larger."""
        size = self.nearest(picture)
        scale = max(size[0] / picture[0], size[1] / picture[1])
        if scale >= 1:
            return picture
        width, height = (round(side * scale) for side in picture)
        return width, height


def kept_change(context: Pixels, target: Pixels, transform: Fit, above: int) -> float:
    """The share of changed pixels that lie in what a target's transform keeps; 1 if none changed.

    Of an edit of a small part it is as it is: what is cut off, training cannot see. An edit that
    changes WHOLE of the picture or more, such as another style or season, is seen in each part of
    it, so the share is that of what the transform keeps of the picture itself, at most 1: a crop
    that loses no more of the edit than of the picture loses nothing of it.

    Args:
        context, target: of one shape [H, W, 3]; a context of another number of pixels is brought
            to the target's.
        above: levels of 255 by which one channel must differ for a pixel to have changed.
    """
    if transform.cuts_nothing:
        return 1.0
    size: Size = (target.shape[1], target.shape[0])
    before = scaled(context, size)
    apart = np.maximum(before, target) - np.minimum(before, target)  # cannot wrap
    changed = apart.max(axis=2) > above
    total = int(changed.sum())
    if not total:
        return 1.0
    left, top, right, bottom = (round(edge) for edge in transform.box(size))
    inside = changed[top:bottom, left:right]
    seen = int(inside.sum())
    if total >= WHOLE * changed.size and inside.size:
        return min(1.0, float(seen * changed.size / (total * inside.size)))
    return seen / total
