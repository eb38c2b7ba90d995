"""What only pictures with transparency allow: another background, the subject moved or resized."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kontext.data.operations.base import (
    COLOURS,
    Canvas,
    Draw,
    Edit,
    Operation,
    luma,
    rounded,
    sentences,
)
from kontext.data.pixels import Pixels

_SEEN = 0.02  # alpha below which a pixel is background


@dataclass(frozen=True)
class Background:
    """A background of one colour, or from one to another, top to bottom."""

    color: str
    lower: str


@dataclass(frozen=True)
class Move:
    """Where the subject goes, by so much of the picture's width."""

    way: str
    by: float


@dataclass(frozen=True)
class Resize:
    """Factor of the subject's size."""

    way: str
    factor: float


@dataclass(frozen=True)
class Facing:
    """The subject, mirrored where it stands."""


def _is_cutout(canvas: Canvas) -> bool:
    alpha = canvas.alpha
    return alpha is not None and (alpha < _SEEN).mean() > 0.15 and (alpha > 0.9).mean() > 0.05


def _box(canvas: Canvas) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the subject."""
    assert canvas.alpha is not None
    seen = canvas.alpha > _SEEN
    columns, rows = np.flatnonzero(seen.any(axis=0)), np.flatnonzero(seen.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _lifted(canvas: Canvas) -> NDArray[np.float32]:
    """The subject alone: premultiplied colour and alpha, float32 [H, W, 4]."""
    assert canvas.alpha is not None
    alpha = canvas.alpha[..., None]
    colour = canvas.rgb - (1 - alpha) * np.array(canvas.background, np.float32)
    return np.dstack([np.clip(colour, 0, 255 * alpha), alpha]).astype(np.float32)


def _laid(canvas: Canvas, subject: NDArray[np.float32]) -> Pixels:
    """A lifted subject on the canvas's background."""
    under = (1 - subject[..., 3:]) * np.array(canvas.background, np.float32)
    return rounded(subject[..., :3] + under)


def _edit(canvas: Canvas, target: Pixels) -> Edit:
    region = (canvas.rgb != target).any(axis=2)
    return Edit(canvas.rgb, target, region)


# --- background ----------------------------------------------------------------------------------


def _draw_background(canvas: Canvas, draw: Draw) -> Background | None:
    if not _is_cutout(canvas):
        return None
    names = [name for name, value in COLOURS.items()
             if np.abs(np.array(value) - canvas.background).sum() > 120]  # fmt: skip
    one, other = draw.two(names)
    return Background(one, other if draw.one((False, True)) else one)


def _background(canvas: Canvas, parameters: Background) -> Edit:
    assert canvas.alpha is not None
    down = np.linspace(0, 1, canvas.rgb.shape[0])[:, None, None]
    top, low = (np.array(COLOURS[name], float) for name in (parameters.color, parameters.lower))
    lifted = _lifted(canvas)
    target = rounded(lifted[..., :3] + (1 - lifted[..., 3:]) * (top + (low - top) * down))
    region = canvas.alpha < 1
    return Edit(canvas.rgb, np.where(region[..., None], target, canvas.rgb), region)


def _says_background(parameters: Background) -> list[str]:
    if parameters.color == parameters.lower:
        text = """make the background {c} | change the background to {c} |
            put it on a plain {c} background | replace the background with plain {c} |
            set it against a {c} wall | please use a {c} background | I want it on {c} |
            the background should be {c} | color everything behind it {c}"""
    else:
        text = """make the background fade from {c} down to {l} |
            put it on a background that goes from {c} to {l} |
            replace the background with a gradient, {c} above and {l} below |
            please use a {c} to {l} gradient as background |
            I want {c} at the top of the background and {l} at the bottom |
            change the background to a gradient from {c} to {l} |
            set it against a gradient that runs from {c} to {l}"""
    return sentences(text, c=parameters.color, l=parameters.lower)


# --- colour --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Paint:
    """The colour that all of the subject has, in its own light and shade."""

    color: str


def _draw_paint(canvas: Canvas, draw: Draw) -> Paint | None:
    if not _is_cutout(canvas):
        return None
    return Paint(draw.one([name for name in COLOURS if name not in ("white", "black", "gray")]))


def _paint(canvas: Canvas, parameters: Paint) -> Edit:
    lifted = _lifted(canvas)
    light = luma(lifted[..., :3])[..., None] / 255  # premultiplied, like the colours
    brightest = np.percentile(light[lifted[..., 3] > 0.9], 90)
    light *= np.clip(0.75 / max(brightest, 0.01), 1, 2.5)  # a dark one shows a colour no better
    painted = light * (np.array(COLOURS[parameters.color], float) * 0.75 + 64)
    subject = np.dstack([np.clip(painted, 0, 255 * lifted[..., 3:]), lifted[..., 3:]])
    return _edit(canvas, _laid(canvas, subject.astype(np.float32)))


def _says_paint(parameters: Paint) -> list[str]:
    return sentences(
        """make the subject {c} | paint the figure {c} | color the whole subject {c} |
        turn the figure {c}, same background | the subject should be {c} all over |
        please recolor the subject in {c} | I want the figure in shades of {c} |
        change only the subject's color, to {c} | dye the figure {c}""",
        c=parameters.color,
    )


# --- moves ---------------------------------------------------------------------------------------

_WAYS = {"to the left": (-1, 0), "to the right": (1, 0), "up": (0, -1), "down": (0, 1)}
_BACK = {"to the left": "to the right", "to the right": "to the left", "up": "down", "down": "up"}


def _draw_move(canvas: Canvas, draw: Draw) -> Move | None:
    """Only where the subject stays whole."""
    if not _is_cutout(canvas):
        return None
    left, top, right, bottom = _box(canvas)
    width, height = canvas.size
    room = {"to the left": left / width, "to the right": 1 - right / width,
            "up": top / height, "down": 1 - bottom / height}  # fmt: skip
    ways = [way for way in _WAYS if room[way] >= 0.08]
    if not ways:
        return None
    way = draw.one(ways)
    return Move(way, round(min(room[way], draw.between(0.08, 0.3)), 3))


def _move(canvas: Canvas, parameters: Move) -> Edit:
    x, y = _WAYS[parameters.way]
    width, height = canvas.size
    steps = int(parameters.by * height) * y, int(parameters.by * width) * x
    return _edit(canvas, _laid(canvas, np.roll(_lifted(canvas), steps, axis=(0, 1))))


def _says_move(parameters: Move) -> list[str]:
    return sentences(
        """move it {way} | move the subject {way} | shift the figure {way} |
        place the subject further {way} | please move it {way} | it should be further {way} |
        I want the subject further {way} | slide the figure {way}, same background |
        put the same figure further {way}""",
        way=parameters.way,
    )


def _draw_resize(canvas: Canvas, draw: Draw) -> Resize | None:
    if not _is_cutout(canvas):
        return None
    left, top, right, bottom = _box(canvas)
    width, height = canvas.size
    room = min(width / (right - left), height / (bottom - top))
    way = draw.one(("larger", "smaller")) if room > 1.25 else "smaller"
    factor = (
        draw.between(0.45, 0.7) if way == "smaller" else min(room * 0.98, draw.between(1.3, 1.8))
    )
    return Resize(way, round(factor, 3))


def _resize(canvas: Canvas, parameters: Resize) -> Edit:
    """About the middle of its own box, then pushed back into the picture."""
    left, top, right, bottom = _box(canvas)
    width, height = canvas.size
    size = (
        min(width, max(1, round((right - left) * parameters.factor))),
        min(height, max(1, round((bottom - top) * parameters.factor))),
    )
    part = _lifted(canvas)[top:bottom, left:right]
    bands = [
        np.asarray(Image.fromarray(part[..., n]).resize(size, Image.Resampling.BILINEAR))
        for n in range(4)
    ]
    x = min(max(0, round((left + right - size[0]) / 2)), width - size[0])
    y = min(max(0, round((top + bottom - size[1]) / 2)), height - size[1])
    placed = np.zeros((height, width, 4), np.float32)
    placed[y : y + size[1], x : x + size[0]] = np.dstack(bands)
    return _edit(canvas, _laid(canvas, placed))


def _says_resize(parameters: Resize) -> list[str]:
    return sentences(
        """make it {way} | make the subject {way} | show the same figure {way} |
        the subject should be {way} | please make the figure {way} | resize the subject, {way} |
        I want the subject {way}, same background | draw the same figure {way}""",
        way=parameters.way,
    )


def _draw_facing(canvas: Canvas, draw: Draw) -> Facing | None:
    return Facing() if _is_cutout(canvas) else None


def _face(canvas: Canvas, parameters: Facing) -> Edit:
    left, top, right, bottom = _box(canvas)
    lifted = _lifted(canvas)
    turned = lifted.copy()
    turned[top:bottom, left:right] = lifted[top:bottom, left:right][:, ::-1]
    return _edit(canvas, _laid(canvas, turned))


_FACING = """let it face the other way | mirror the subject where it stands |
    turn the figure to the other side | make the subject face the other way |
    flip only the figure, left to right | please mirror the subject | show its mirror image |
    I want the same figure, mirrored | the figure should look to the other side"""


OPERATIONS = (
    Operation("background", "global", _draw_background, _background, _says_background),
    Operation("recolor-subject", "local", _draw_paint, _paint, _says_paint),
    Operation(
        "move-subject",
        "character",
        _draw_move,
        _move,
        _says_move,
        undoes=lambda p: _says_move(replace(p, way=_BACK[p.way])),
    ),
    Operation(
        "resize-subject",
        "character",
        _draw_resize,
        _resize,
        _says_resize,
        undoes=lambda p: _says_resize(replace(p, way={"larger": "smaller"}.get(p.way, "larger"))),
    ),
    Operation(
        "mirror-subject",
        "character",
        _draw_facing,
        _face,
        lambda p: sentences(_FACING),
        undoes=lambda p: sentences(_FACING),
    ),
)
