"""Pairs next to a limit: those that it just lets through, and those that it alone keeps out.

What a limit of safety keeps out is not drawn, nor what any other limit of safety does.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kontext.data.images import ImageBank
from kontext.data.pixels import Pixels, decode_png
from kontext.data.report.limits import Limit, Values

CHANGES_RESULTS = False  # shows what is there

_SIDE = 144  # pixels of a picture on the page, at most


@dataclass(frozen=True)
class Sample:
    """One pair on the page."""

    pair_id: str
    instruction: str
    category: str
    value: float
    pictures: tuple[str, ...]  # contexts, then the target, as data URLs


@dataclass(frozen=True)
class Margin:
    """What a limit decides: pairs just inside, nearest first, and pairs just outside."""

    limit: Limit
    inside: tuple[Sample, ...]
    outside: tuple[Sample, ...]


@dataclass(frozen=True)
class Pairs:
    """All screened pairs, one row each."""

    pair_ids: Sequence[str]
    contexts: Sequence[Sequence[str]]
    targets: Sequence[str]
    instructions: Sequence[str]
    categories: Sequence[str]
    accepted: NDArray[np.bool_]
    alone: Sequence[str]  # the only reject reason; empty where there is none, or there are several


def margin(
    limit: Limit, values: Values, known: NDArray[np.bool_], pairs: Pairs, bank: ImageBank, most: int
) -> Margin | None:
    """The pairs next to a limit, `most` on either side; None where it has nothing to decide.

    Args:
        values, known: the score of each pair, and whether it says something of it.
    """
    apart = limit.margin(values, pairs.categories)
    inside = np.flatnonzero(known & pairs.accepted & (apart >= 0))
    only = np.array([reason == limit.reason for reason in pairs.alone], bool)
    outside = np.flatnonzero(only & np.isfinite(apart))
    if limit.of_safety:
        outside = outside[:0]
    if not len(outside) and (not len(inside) or np.ptp(apart[inside]) == 0):
        return None
    chosen = (
        inside[np.argsort(apart[inside], kind="stable")][:most],
        outside[np.argsort(-apart[outside], kind="stable")][:most],
    )
    samples = [
        tuple(_sample(int(row), float(values[row]), pairs, bank) for row in rows) for rows in chosen
    ]
    return Margin(limit, samples[0], samples[1])


def _sample(row: int, value: float, pairs: Pairs, bank: ImageBank) -> Sample:
    shown = [*pairs.contexts[row], pairs.targets[row]]
    return Sample(
        pairs.pair_ids[row],
        pairs.instructions[row],
        pairs.categories[row],
        value,
        tuple(thumbnail(decode_png(bank.png(pixel_id))) for pixel_id in shown),
    )


def thumbnail(rgb: Pixels) -> str:
    """A small picture as a data URL."""
    from PIL import Image

    picture = Image.fromarray(rgb)
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    picture.save(out, "WEBP", quality=85, method=4)
    return f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode()}"
