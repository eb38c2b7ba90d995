"""Light and colour of the whole picture: brightness, contrast, saturation, warmth, tint, hue."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kontext.data.operations.base import (
    COLOURS,
    Canvas,
    Draw,
    Edit,
    Operation,
    luma,
    rounded,
    sentences,
    whole,
)

_MUCH = {False: "a little", True: "much"}


@dataclass(frozen=True)
class Amount:
    """`way` names the direction; `amount` is the exponent, factor or shift."""

    way: str
    amount: float
    much: bool


def _amount(draw: Draw, ways: tuple[str, str], little: float, much: float) -> Amount:
    strong = draw.one((False, True))
    low, high = (much * 0.9, much * 1.1) if strong else (little * 0.9, little * 1.1)
    return Amount(draw.one(ways), draw.between(low, high), strong)


_STRONGER = """make it {much} {way} | make the picture {much} {way} |
    the whole picture should be {much} {way} | please make this {much} {way} |
    can you make the image {much} {way}? | I want it {much} {way} |
    turn the picture {much} {way} | edit the photo so that it is {much} {way} |
    show the same picture, {much} {way} | let everything look {much} {way}"""


def _says(parameters: Amount) -> list[str]:
    return sentences(_STRONGER, much=_MUCH[parameters.much], way=parameters.way)


def _back(ways: dict[str, str]) -> "dict[str, str]":
    return ways | {other: way for way, other in ways.items()}


# --- brightness: a power, so that nothing is clipped and the way back is exact --------------------


def _draw_brightness(canvas: Canvas, draw: Draw) -> Amount | None:
    found = _amount(draw, ("brighter", "darker"), 1.45, 2.1)
    middle = luma(canvas.rgb).mean()
    if (middle > 205 and found.way == "brighter") or (middle < 50 and found.way == "darker"):
        found = replace(found, way=_BRIGHT[found.way])
    return found


_BRIGHT = _back({"brighter": "darker"})


def _brightness(canvas: Canvas, parameters: Amount) -> Edit:
    power = 1 / parameters.amount if parameters.way == "brighter" else parameters.amount
    return whole(canvas, 255 * (canvas.rgb / 255) ** power)


# --- contrast, saturation, warmth ---------------------------------------------------------------


def _draw_contrast(canvas: Canvas, draw: Draw) -> Amount | None:
    return _amount(draw, ("more contrast", "less contrast"), 1.45, 2.0)


def _contrast(canvas: Canvas, parameters: Amount) -> Edit:
    factor = parameters.amount if parameters.way == "more contrast" else 1 / parameters.amount
    middle = luma(canvas.rgb).mean()
    return whole(canvas, (canvas.rgb - middle) * factor + middle)


def _says_contrast(parameters: Amount) -> list[str]:
    return sentences(
        """give it {much} {way} | the picture needs {much} {way} | show it with {much} {way} |
        please give the image {much} {way} | I want {much} {way} in this picture |
        edit it to have {much} {way} | can you give the photo {much} {way}? |
        the whole picture with {much} {way} | add or take light until there is {much} {way} |
        same picture, {much} {way}""",
        much=_MUCH[parameters.much],
        way=parameters.way,
    )


def _draw_saturation(canvas: Canvas, draw: Draw) -> Amount | None:
    spread = np.ptp(canvas.rgb.astype(np.int16), axis=2)
    if spread.mean() < 18:
        return None  # there is hardly any colour
    return _amount(draw, ("more colorful", "less colorful"), 1.7, 2.8)


def _saturation(canvas: Canvas, parameters: Amount) -> Edit:
    factor = parameters.amount if parameters.way == "more colorful" else 1 / parameters.amount
    grey = luma(canvas.rgb)[..., None]
    return whole(canvas, grey + (canvas.rgb - grey) * factor)


def _draw_warmth(canvas: Canvas, draw: Draw) -> Amount | None:
    return _amount(draw, ("warmer", "cooler"), 1.16, 1.34)


def _warmth(canvas: Canvas, parameters: Amount) -> Edit:
    warm = parameters.amount if parameters.way == "warmer" else 1 / parameters.amount
    # a power for each channel keeps black and white, where a factor would clip
    powers = np.array([1 / warm, 1.0, warm]) ** 1.6
    return whole(canvas, 255 * (canvas.rgb / 255) ** powers)


def _says_warmth(parameters: Amount) -> list[str]:
    return _says(parameters) + sentences(
        "give the picture {much} {way} colors | make the light {much} {way}",
        much=_MUCH[parameters.much],
        way=parameters.way,
    )


# --- tint and hue -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tint:
    """A colour laid over all of it."""

    color: str
    share: float


def _draw_tint(canvas: Canvas, draw: Draw) -> Tint | None:
    names = ("red", "orange", "yellow", "green", "turquoise", "blue", "purple", "pink")
    return Tint(draw.one(names), draw.between(0.6, 0.75))


def _tint(canvas: Canvas, parameters: Tint) -> Edit:
    colour = np.array(COLOURS[parameters.color], np.float64)
    # like light through a filter: by brightness, with a part of the colour itself in the shadows
    lit = luma(canvas.rgb)[..., None] / 255 * (colour * 0.6 + 102) + colour * 0.12
    return whole(canvas, canvas.rgb + (lit - canvas.rgb) * parameters.share)


def _says_tint(parameters: Tint) -> list[str]:
    return sentences(
        """tint the picture {c} | give it {a} {c} tint | lay {a} {c} filter over the picture |
        put {a} {c} color filter on the photo | show it in {c} light | bathe it all in {c} light |
        please add {a} {c} tint to the whole image | make everything look tinted {c} |
        I want {a} {c} cast over the picture | color the whole picture slightly {c}""",
        c=parameters.color,
        a="an" if parameters.color[0] in "aeiou" else "a",
    )


def _says_untint(parameters: Tint) -> list[str]:
    return sentences(
        """remove the {c} tint | take away the {c} filter | get rid of the {c} cast |
        show it in its own colors, without the {c} tint | please remove the {c} color filter |
        make the light neutral, not {c} | correct the {c} color cast | no more {c} tint""",
        c=parameters.color,
    )


@dataclass(frozen=True)
class Hue:
    """Turns all hues by so many degrees."""

    degrees: int


def _draw_hue(canvas: Canvas, draw: Draw) -> Hue | None:
    if _chroma(canvas.rgb).mean() < 25:
        return None
    return Hue(draw.one((60, 90, 120, 180, 240, 270)))


def _chroma(rgb: NDArray[np.uint8]) -> NDArray[np.int16]:
    spread: NDArray[np.int16] = np.ptp(rgb.astype(np.int16), axis=2)
    return spread


def _hue(canvas: Canvas, parameters: Hue) -> Edit:
    return Edit(canvas.rgb, turned(canvas.rgb, parameters.degrees), canvas.everywhere)


def turned(rgb: NDArray[np.uint8], degrees: float) -> NDArray[np.uint8]:
    """All hues moved around the hexagon of HSV; value and chroma stay as they are."""
    values = rgb.astype(np.float64)
    top, low = values.max(axis=2), values.min(axis=2)
    chroma = np.where(top > low, top - low, 1)
    red, green, blue = (values[..., n] for n in range(3))
    sector = np.where(
        top == red,
        (green - blue) / chroma % 6,
        np.where(top == green, (blue - red) / chroma + 2, (red - green) / chroma + 4),
    )
    hue = sector + degrees / 60
    parts = [(n + hue) % 6 for n in (5, 3, 1)]
    shares = [np.clip(np.minimum(part, 4 - part), 0, 1) for part in parts]
    return rounded(np.stack([top - (top - low) * share for share in shares], axis=2))


def _says_hue(parameters: Hue) -> list[str]:
    return sentences(
        """shift all hues by {d} degrees | rotate the hues by {d} degrees |
        turn every color {d} degrees around the color wheel | hue shift of {d} degrees |
        please rotate all colors by {d} degrees of hue | move the hue of everything by {d} degrees |
        apply a hue rotation of {d} degrees | change the hue of the whole picture by {d} degrees""",
        d=parameters.degrees,
    )


OPERATIONS = (
    Operation(
        "brightness",
        "global",
        _draw_brightness,
        _brightness,
        _says,
        undoes=lambda p: _says(replace(p, way=_BRIGHT[p.way])),
        restores=lambda p: replace(p, way=_BRIGHT[p.way]),
    ),
    Operation("contrast", "global", _draw_contrast, _contrast, _says_contrast),
    Operation("saturation", "global", _draw_saturation, _saturation, _says),
    Operation("warmth", "global", _draw_warmth, _warmth, _says_warmth),
    Operation("tint", "global", _draw_tint, _tint, _says_tint, undoes=_says_untint),
    Operation(
        "hue",
        "global",
        _draw_hue,
        _hue,
        _says_hue,
        undoes=lambda p: _says_hue(Hue(360 - p.degrees)),
        restores=lambda p: Hue(360 - p.degrees),
    ),
)
