"""One part of the picture: blurred, pixelated, sharpened, gray, lighter; one colour exchanged."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from kontext.data.operations.base import (
    Canvas,
    Draw,
    Edit,
    Mask,
    Operation,
    luma,
    rounded,
    sentences,
)
from kontext.data.operations.colours import turned
from kontext.data.operations.manner import blocky
from kontext.data.pixels import Pixels

# name -> left, top, right, bottom as shares
PARTS: dict[str, tuple[float, float, float, float]] = {
    "left half": (0, 0, 0.5, 1),
    "right half": (0.5, 0, 1, 1),
    "upper half": (0, 0, 1, 0.5),
    "lower half": (0, 0.5, 1, 1),
    "top left quarter": (0, 0, 0.5, 0.5),
    "top right quarter": (0.5, 0, 1, 0.5),
    "bottom left quarter": (0, 0.5, 0.5, 1),
    "bottom right quarter": (0.5, 0.5, 1, 1),
    "middle third": (1 / 3, 0, 2 / 3, 1),
    "center": (0.25, 0.25, 0.75, 0.75),
}


@dataclass(frozen=True)
class Part:
    """Which part, and how strongly."""

    part: str
    amount: float


def _box(canvas: Canvas, part: str) -> tuple[slice, slice]:
    width, height = canvas.size
    left, top, right, bottom = PARTS[part]
    return slice(round(top * height), round(bottom * height)), slice(
        round(left * width), round(right * width)
    )


def _edit(canvas: Canvas, part: str, changed: Pixels) -> Edit:
    """`changed` [H, W, 3] in the part, the picture elsewhere."""
    region: Mask = ~canvas.everywhere
    region[_box(canvas, part)] = True
    return Edit(canvas.rgb, np.where(region[..., None], changed, canvas.rgb), region)


def _blur(canvas: Canvas, parameters: Part) -> Edit:
    radius = parameters.amount * min(canvas.size)
    image = Image.fromarray(canvas.rgb).filter(ImageFilter.GaussianBlur(radius))
    return _edit(canvas, parameters.part, np.asarray(image))


def _pixelate(canvas: Canvas, parameters: Part) -> Edit:
    return _edit(canvas, parameters.part, blocky(canvas.rgb, round(1 / parameters.amount)))


def _sharpen(canvas: Canvas, parameters: Part) -> Edit:
    soft = Image.fromarray(canvas.rgb).filter(
        ImageFilter.GaussianBlur(max(1.2 * canvas.unit, 0.006 * min(canvas.size)))
    )
    detail = canvas.rgb.astype(float) - np.asarray(soft)
    return _edit(canvas, parameters.part, rounded(canvas.rgb + parameters.amount * detail))


def _grey(canvas: Canvas, parameters: Part) -> Edit:
    grey = rounded(np.repeat(luma(canvas.rgb)[..., None], 3, axis=2))
    return _edit(canvas, parameters.part, grey)


def _light(canvas: Canvas, parameters: Part) -> Edit:
    return _edit(canvas, parameters.part, rounded(255 * (canvas.rgb / 255) ** parameters.amount))


def _part(
    name: str,
    apply: Callable[[Canvas, Part], Edit],
    amounts: tuple[float, float],
    text: str,
    back: str = "",
) -> Operation:
    def draw(canvas: Canvas, draw: Draw) -> Part | None:
        return Part(draw.one(tuple(PARTS)), draw.between(*amounts))

    def says(parameters: Part) -> list[str]:
        return sentences(text, part=parameters.part)

    def undoes(parameters: Part) -> list[str]:
        return sentences(back, part=parameters.part)

    return Operation(name, "local", draw, apply, says, undoes if back else None)


_BLUR = """blur the {part} | make the {part} blurry | blur only the {part} of the picture |
    put the {part} out of focus | soften the {part} until it is blurred |
    please blur the {part} of this image | I want the {part} blurred, the rest sharp |
    apply a strong blur to the {part} | can you blur the {part}? | unsharp {part}, sharp rest"""
_PIXELATE = """pixelate the {part} | censor the {part} with large pixels |
    hide the {part} behind a mosaic | make the {part} blocky | pixelate only the {part} |
    please pixelate the {part} of the image | cover the {part} with a pixel mosaic |
    I want the {part} pixelated | turn the {part} into coarse squares"""
_SHARPEN = """sharpen the {part} | make the {part} crisper | bring out detail in the {part} |
    sharpen only the {part} of the picture | please sharpen the {part} |
    I want the {part} sharper | add sharpness to the {part} | make edges in the {part} stronger"""
_GREY = """make the {part} black and white | take the color out of the {part} |
    turn only the {part} gray | desaturate the {part} | show the {part} in shades of gray |
    please remove the color from the {part} | color everywhere but in the {part} |
    I want the {part} without color | convert just the {part} to grayscale"""
_LIGHT = """brighten the {part} | make the {part} lighter | lighten only the {part} |
    put more light on the {part} | please brighten the {part} of the picture |
    I want the {part} brighter | raise the brightness of the {part} | light up the {part}"""
_UNLIGHT = """darken the {part} | make the {part} darker | darken only the {part} |
    take light from the {part} | please darken the {part} of the picture |
    I want the {part} darker | lower the brightness of the {part} | put the {part} into shade"""


# --- one colour ----------------------------------------------------------------------------------

# names of hues: middle and reach in degrees
_HUES = {
    "red": (0, 18),
    "orange": (30, 11),
    "yellow": (54, 12),
    "green": (118, 38),
    "turquoise": (178, 16),
    "blue": (225, 28),
    "purple": (275, 18),
    "pink": (325, 20),
}
_WIDER = 1.8  # times the reach, which the shades of a coloured thing have
_APART = 55  # degrees between two colours that are exchanged


@dataclass(frozen=True)
class Exchange:
    """One hue into another."""

    before: str
    after: str


def _hue_of(rgb: Pixels) -> tuple[NDArray[np.float64], Mask]:
    """(hue in degrees, whether there is one) [H, W]."""
    values = rgb.astype(np.float64)
    top, low = values.max(axis=2), values.min(axis=2)
    chroma = np.where(top > low, top - low, 1)
    red, green, blue = (values[..., n] for n in range(3))
    sector = np.where(top == red, (green - blue) / chroma % 6,
                      np.where(top == green, (blue - red) / chroma + 2,
                               (red - green) / chroma + 4))  # fmt: skip
    vivid = ((top - low) > 0.35 * top) & (top > 60)
    return sector * 60, vivid


def _having(hues: tuple[NDArray[np.float64], Mask], name: str, wider: float = 1.0) -> Mask:
    """Where a colour's name fits; `wider` takes in the shades around it."""
    hue, vivid = hues
    middle, reach = _HUES[name]
    apart = np.abs((hue - middle + 180) % 360 - 180)
    found: Mask = vivid & (apart <= reach * wider)
    return found


def _draw_exchange(canvas: Canvas, draw: Draw) -> Exchange | None:
    """A colour that there is enough of, and that does not run into its neighbours."""
    hues = _hue_of(canvas.rgb)
    shares = {name: _having(hues, name).mean() for name in _HUES}
    present = [
        name
        for name, share in shares.items()
        if 0.02 <= share <= 0.7 and _having(hues, name, _WIDER).mean() < 1.5 * share
    ]
    if not present:
        return None
    before = draw.one(present)
    apart = [
        name
        for name in _HUES
        if abs((_HUES[name][0] - _HUES[before][0] + 180) % 360 - 180) >= _APART
    ]
    return Exchange(before, draw.one(apart))


def _exchange(canvas: Canvas, parameters: Exchange) -> Edit:
    region = _having(_hue_of(canvas.rgb), parameters.before, _WIDER)
    degrees = _HUES[parameters.after][0] - _HUES[parameters.before][0]
    moved = turned(canvas.rgb, degrees)
    return Edit(canvas.rgb, np.where(region[..., None], moved, canvas.rgb), region)


def _says_exchange(parameters: Exchange) -> list[str]:
    return sentences(
        """make everything that is {b} {a} | change {b} to {a} | turn all that is {b} {a} |
        recolor the {b} parts {a} | replace the color {b} with {a} | what is {b} becomes {a} |
        please change every {b} part to {a} | let the {b} areas be {a} |
        swap {b} for {a} wherever it is | paint the {b} things {a}""",
        b=parameters.before,
        a=parameters.after,
    )


OPERATIONS = (
    _part("blur-part", _blur, (0.025, 0.05), _BLUR),
    _part("pixelate-part", _pixelate, (0.045, 0.07), _PIXELATE),
    _part("sharpen-part", _sharpen, (1.6, 2.6), _SHARPEN),
    _part("gray-part", _grey, (1, 1), _GREY),
    _part("light-part", _light, (0.45, 0.6), _LIGHT, _UNLIGHT),
    Operation("exchange-color", "local", _draw_exchange, _exchange, _says_exchange),
)
