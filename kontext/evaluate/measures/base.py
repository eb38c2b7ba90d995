"""What a measure is: a number of an edit, and a card that says what the number is of."""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from kontext.errors import MetricUnavailable
from kontext.evaluate.metrics.base import Card
from kontext.evaluate.pixels import Picture, row_cosine

CHANGES_RESULTS = False  # for users; no stage runs a public bench

Mask = NDArray[np.bool_]  # [H, W]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Made:
    """An edit: uint8 [H, W, 3] each; mask: bool of the context's size, where it may change.

    caption, context_caption: what the result has to show, and what the input shows. wanted,
    written: the text that has to stand in the result, and the one in its place in the input. Empty
    where nobody says. kept: what measures share, such as the embedding of a picture.
    """

    output: Picture
    context: Picture | None = None
    target: Picture | None = None
    mask: Mask | None = None
    caption: str = ""
    context_caption: str = ""
    wanted: str = ""
    written: str = ""
    kept: dict[tuple[str, str], Any] = field(default_factory=dict)

    def once(self, what: str, name: str, make: Callable[[], T]) -> T:
        """What `make` gives, made once for this edit. `what`: by whom; `name`: of what."""
        if (what, name) not in self.kept:
            self.kept[what, name] = make()
        found: T = self.kept[what, name]
        return found


@dataclass(frozen=True)
class Opened:
    """A measure whose weights are loaded. `value` is None where it does not apply to an edit."""

    value: Callable[[Made], float | None]
    card: Card


@dataclass(frozen=True)
class Measure:
    """A number of an edit. `open` raises MetricUnavailable where it cannot be measured here."""

    title: str
    unit: str  # "", "dB" or "%", whose values are shares
    better: Literal["higher", "lower", ""]
    definition: str
    open: Callable[[], Opened]


_TO_INPUT = "the result to the other picture's size, bicubic (Pillow)"
PLAIN = Card("kontext's own code", resize=_TO_INPUT)


def plain(value: Callable[[Made], float | None], card: Card = PLAIN) -> Callable[[], Opened]:
    """`open` of a measure that needs no weights."""
    opened = Opened(value, card)
    return lambda: opened


def package(name: str, install: str) -> str:
    """`name 1.2.3` of an installed package. Raises MetricUnavailable."""
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError as error:
        raise MetricUnavailable(f"it needs {name}: pip install {install}") from error


def resized(picture: Picture, like: Picture) -> Picture:
    """A picture at another's size, bicubic."""
    from PIL import Image

    if picture.shape == like.shape:
        return picture
    how = Image.Resampling.BICUBIC
    return np.array(Image.fromarray(picture).resize((like.shape[1], like.shape[0]), how))


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float | None:
    """Of two vectors [D]; None where one is zero."""
    found = float(row_cosine(a[None], b[None])[0])
    return None if found != found else found
