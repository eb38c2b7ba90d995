"""What an operation is: parameters drawn for a picture, the edit, and sentences that say it."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from kontext.data.pixels import Pixels
from kontext.data.sources.stable import stable_hash

Mask = NDArray[np.bool_]  # [H, W]
Share = NDArray[np.floating[Any]]  # [H, W], 0 to 1
T = TypeVar("T")


@dataclass(frozen=True)
class Canvas:
    """A picture that is to be edited, with what is known of it.

    `alpha` is the cut-out's share of each pixel, None where the picture is opaque; `background`
    is the colour that it lies on; `trained` is the shorter side, in pixels, at which it is trained
    on: what is drawn has to be seen there.
    """

    rgb: Pixels
    alpha: Share | None = None
    background: tuple[int, int, int] = (255, 255, 255)
    trained: int = 1024

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.rgb.shape[1], self.rgb.shape[0]

    @property
    def unit(self) -> float:
        """Pixels of this picture for one in training, at least one."""
        return max(1.0, min(self.size) / self.trained)

    @property
    def everywhere(self) -> Mask:
        """The mask of an edit of the whole picture."""
        return np.ones(self.rgb.shape[:2], np.bool_)


@dataclass(frozen=True)
class Edit:
    """A picture before and after. Nothing changes outside of `region`."""

    context: Pixels
    target: Pixels
    region: Mask

    @property
    def mask(self) -> Mask:
        """The pixels that are changed."""
        changed: Mask = (self.context != self.target).any(axis=2)
        return changed


class Draw:
    """Choices fixed by a key and by how many were made before: the same on every machine."""

    def __init__(self, *key: object) -> None:
        self._key, self._count = key, 0

    def _next(self) -> int:
        self._count += 1
        return stable_hash("draw", *self._key, self._count)

    def between(self, low: float, high: float) -> float:
        """A number, to three digits, so that it is written as it was used."""
        return round(low + (high - low) * (self._next() % 10_001) / 10_000, 3)

    def one(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self._next() % len(options)]

    def two(self, options: Sequence[T]) -> tuple[T, T]:
        """Two different options, in an order."""
        first = self._next() % len(options)
        other = (first + 1 + self._next() % (len(options) - 1)) % len(options)
        return options[first], options[other]

    def seed(self) -> int:
        """A seed for numpy's generator."""
        return self._next() % 2**32


@dataclass(frozen=True)
class Operation:
    """One way to edit. All functions are pure.

    Attributes:
        name: unique; `ingest.edits.operations` names it.
        category: of KontextBench's five.
        draw: parameters for a picture, or None where it does not fit it.
        apply: the edit with these parameters.
        says: sentences that are true of the parameters, ten or so, at most 14 words each.
        undoes: the same for the way back from target to context; None where the target does not
            say what was there.
        restores: parameters with which the operation itself leads back, within rounding.
    """

    name: str
    category: str
    draw: Callable[[Canvas, Draw], Any | None]
    apply: Callable[[Canvas, Any], Edit]
    says: Callable[[Any], Sequence[str]]
    undoes: Callable[[Any], Sequence[str]] | None = None
    restores: Callable[[Any], Any] | None = None


def evidence(parameters: Any) -> dict[str, str | float]:
    """Parameters, a frozen dataclass of words and numbers, as they are stored."""
    return asdict(parameters)


def sentences(text: str, **values: object) -> list[str]:
    """The sentences of `a {x} | b {x}`, filled in."""
    lines = " ".join(text.split()).split(" | ")
    return [" ".join(line.format(**values).split()) for line in lines]


def whole(canvas: Canvas, values: NDArray[Any]) -> Edit:
    """An edit of all pixels; `values` [H, W, 3], 0 to 255, are rounded."""
    return Edit(canvas.rgb, rounded(values), canvas.everywhere)


def rounded(values: NDArray[Any]) -> Pixels:
    """To uint8, clipped to 0 to 255."""
    found: Pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return found


def blended(rgb: Pixels, over: NDArray[Any] | tuple[int, int, int], share: Share) -> Pixels:
    """`over` [H, W, 3], or one colour, laid on a picture; where its share is 0 nothing changes."""
    box = _box(share)
    weight = share[box][..., None].astype(np.float64)
    under, laid = rgb[box], np.asarray(over, np.float64)
    mixed = under * (1 - weight) + (laid[box] if laid.ndim == 3 else laid) * weight
    found = rgb.copy()
    found[box] = np.where(weight > 0, rounded(mixed), under)
    return found


def _box(share: Share, more: int = 0) -> tuple[slice, slice]:
    """The rows and columns in which anything is covered, and `more` of them on all sides."""
    covered = share > 0
    lines = (np.flatnonzero(covered.any(axis=axis)) for axis in (1, 0))
    rows, columns = (
        slice(max(0, int(line[0]) - more), int(line[-1]) + 1 + more) if line.size else slice(0)
        for line in lines
    )
    return rows, columns


def grown(share: Share, by: int) -> Share:
    """A cover, `by` pixels larger on all sides."""
    import cv2

    box = _box(share, by)
    side = 2 * by + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    found = np.array(share, np.float32)
    found[box] = cv2.dilate(found[box], kernel)
    return found


def luma(rgb: NDArray[Any]) -> NDArray[np.float64]:
    """Brightness [H, W] of pixels [H, W, 3], 0 to 255 (ITU-R BT.601)."""
    grey: NDArray[np.float64] = rgb @ np.array([0.299, 0.587, 0.114])
    return grey


# What people call colours, by how they look; none is so near to another that one doubts its name.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (245, 130, 32),
    "yellow": (250, 214, 40),
    "green": (46, 160, 67),
    "turquoise": (40, 190, 190),
    "blue": (38, 92, 200),
    "purple": (128, 62, 174),
    "pink": (244, 130, 178),
    "brown": (120, 74, 42),
    "white": (250, 250, 248),
    "black": (20, 20, 22),
    "gray": (128, 130, 134),
}

# name -> middle, as shares of width and height
PLACES: dict[str, tuple[float, float]] = {
    "in the top left corner": (0.2, 0.2),
    "at the top": (0.5, 0.2),
    "in the top right corner": (0.8, 0.2),
    "on the left": (0.2, 0.5),
    "in the middle": (0.5, 0.5),
    "on the right": (0.8, 0.5),
    "in the bottom left corner": (0.2, 0.8),
    "at the bottom": (0.5, 0.8),
    "in the bottom right corner": (0.8, 0.8),
}


def stands_out(colour: str, under: Pixels, least: float = 90) -> bool:
    """Whether a colour differs from what it is laid on [h, w, 3], in the mean over its pixels."""
    apart = np.abs(under.astype(np.float64) - np.array(COLOURS[colour])).sum(axis=2)
    return bool(under.size and np.mean(apart) >= least and np.mean(apart < least / 2) < 0.3)
