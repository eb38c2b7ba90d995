"""Manners: gray, sepia, negative, duotone, posters, pixels, pencil, comic, print."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

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
from kontext.data.pixels import Pixels


@dataclass(frozen=True)
class Plain:
    """Nothing to choose."""


@dataclass(frozen=True)
class Levels:
    """Levels of each channel."""

    levels: int


@dataclass(frozen=True)
class Blocks:
    """Blocks along the shorter side."""

    blocks: int


@dataclass(frozen=True)
class Pair:
    """The colours of shadows and lights."""

    dark: str
    light: str


@dataclass(frozen=True)
class Strokes:
    """Width of what is drawn, as a share of the shorter side."""

    width: float


def _colourful(canvas: Canvas, draw: Draw) -> Plain | None:
    spread = np.ptp(canvas.rgb.astype(np.int16), axis=2)
    return Plain() if spread.mean() >= 15 else None


def _grey(canvas: Canvas, parameters: Plain) -> Edit:
    return whole(canvas, np.repeat(luma(canvas.rgb)[..., None], 3, axis=2))


_SEPIA = np.array([[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]])


def _sepia(canvas: Canvas, parameters: Plain) -> Edit:
    return whole(canvas, canvas.rgb @ _SEPIA.T)


def _negative(canvas: Canvas, parameters: Plain) -> Edit:
    return Edit(canvas.rgb, 255 - canvas.rgb, canvas.everywhere)


_DUOTONES = (("blue", "yellow"), ("purple", "orange"), ("black", "red"), ("green", "white"),
             ("purple", "turquoise"), ("brown", "white"), ("blue", "pink"))  # fmt: skip


def _duotone(canvas: Canvas, parameters: Pair) -> Edit:
    dark, light = (np.array(COLOURS[name], float) for name in (parameters.dark, parameters.light))
    grey = luma(canvas.rgb)
    low, high = np.percentile(grey, (2, 98))
    share = np.clip((grey - low) / max(high - low, 1), 0, 1)[..., None]
    return whole(canvas, dark * 0.7 * (1 - share) + light * share)


def _posterize(canvas: Canvas, parameters: Levels) -> Edit:
    steps = parameters.levels - 1
    return whole(canvas, np.rint(_smooth(canvas.rgb, 0.004) / 255 * steps) / steps * 255)


def _pixels(canvas: Canvas, parameters: Blocks) -> Edit:
    return Edit(canvas.rgb, blocky(canvas.rgb, parameters.blocks), canvas.everywhere)


def blocky(rgb: Pixels, blocks: int) -> Pixels:
    """As if it had `blocks` pixels along its shorter side."""
    height, width = rgb.shape[:2]
    scale = blocks / min(width, height)
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = Image.fromarray(rgb).resize(small, Image.Resampling.BOX)
    return np.asarray(image.resize((width, height), Image.Resampling.NEAREST), np.uint8)


def _smooth(rgb: Pixels, share: float) -> Pixels:
    radius = share * min(rgb.shape[:2])
    return np.asarray(Image.fromarray(rgb).filter(ImageFilter.GaussianBlur(radius)), np.uint8)


def _pencil(canvas: Canvas, parameters: Strokes) -> Edit:
    """Gray divided by its own blur: lines where brightness changes, paper where it does not."""
    grey = luma(canvas.rgb)
    radius = parameters.width * min(grey.shape)
    as_image = Image.fromarray(rounded(grey))
    blurred = np.asarray(as_image.filter(ImageFilter.GaussianBlur(radius)), float)
    line = np.clip(grey / np.maximum(blurred, 1), 0, 1)
    shade = 0.82 + 0.18 * np.clip(blurred / 190, 0, 1)  # a little of the picture's own shadows
    drawn = 252 * np.clip((line - 0.35) / 0.65, 0, 1) ** 1.4 * shade
    return whole(canvas, np.repeat(drawn[..., None], 3, axis=2))


def _comic(canvas: Canvas, parameters: Strokes) -> Edit:
    import cv2

    side = min(canvas.rgb.shape[:2])
    flat: Any = canvas.rgb
    for _ in range(3):
        flat = cv2.bilateralFilter(flat, 7, 40, max(3, side * 0.01))
    light = luma(flat)
    tones = np.rint(light / 255 * 6) / 6 * 255  # of brightness alone: hues stay what they are
    vivid = light[..., None] + (flat - light[..., None]) * 1.35
    poster = vivid * (tones / np.maximum(light, 1))[..., None]
    grey = cv2.GaussianBlur(light, (0, 0), max(0.8, side * parameters.width))
    across, down = (cv2.Sobel(grey, cv2.CV_64F, *which) for which in ((1, 0), (0, 1)))
    edge = np.hypot(across, down) * max(0.8, side * parameters.width)
    ink = np.clip((edge - 26) / 40, 0, 1)[..., None]
    return whole(canvas, np.clip(poster, 0, 255) * (1 - 0.88 * ink))


def _print(canvas: Canvas, parameters: Blocks) -> Edit:
    """Black dots on a slanted grid, larger where it is darker, as newspapers have them."""
    height, width = canvas.rgb.shape[:2]
    step = min(width, height) / parameters.blocks
    y, x = np.mgrid[:height, :width]
    wave = np.cos((x + y) * np.pi / step) * np.cos((x - y) * np.pi / step)
    grey = np.asarray(
        Image.fromarray(rounded(luma(canvas.rgb))).filter(ImageFilter.GaussianBlur(step / 3)), float
    )
    level = np.clip((grey / 255 - 0.42) * 1.5, -0.85, 0.9)
    dots = np.clip((level + wave * 0.999) * step / 3 + 0.5, 0, 1)
    return whole(canvas, np.repeat((20 + 228 * dots)[..., None], 3, axis=2))


_GREY = """make it black and white | turn the picture into a black and white photo |
    convert it to grayscale | take all color out | show it in shades of gray |
    please make this image black and white | can you turn it to grayscale? |
    I want it without any color | remove all colors from the picture | desaturate it completely"""
_SEPIA_SAYS = """give it a sepia tone | make it look like an old sepia photo |
    turn the picture sepia | convert it to sepia | show it as a faded brown photograph |
    please apply a sepia effect | I want a sepia version of it | tone the whole picture sepia |
    make it an antique, brownish photograph"""
_NEGATIVE = """invert all colors | turn it into a photo negative | make a negative of the picture |
    show it with inverted colors | swap dark and light, and invert the colors |
    please invert the image | I want the color negative of this | invert the whole picture"""
_DUOTONE = """make it a duotone of {dark} and {light} | show it in {dark} and {light} only |
    turn it into a two-color print in {dark} and {light} | {dark} shadows and {light} lights only |
    recolor it as a {dark} and {light} duotone | print it with just {dark} and {light} ink |
    please make a duotone, {dark} to {light} | map dark to {dark} and light to {light}"""
_POSTER = """reduce it to {n} levels per color channel | posterize it to {n} levels |
    turn it into a poster with {n} tones per channel | posterize the picture with {n} levels |
    make it flat like a poster, {n} levels per channel | use only {n} steps of each color channel |
    please posterize this image to {n} levels | give it a posterized look with {n} levels"""
_PIXEL = """turn it into pixel art | pixelate the whole picture | make it look like pixel art |
    show it in large square pixels | redraw it as a low resolution game graphic |
    please pixelate this image | I want an 8-bit pixel version | make it blocky, as pixel art |
    convert the picture to pixel art | render everything as coarse square pixels"""
_PENCIL = """turn it into a pencil sketch | make it a pencil drawing | redraw it in pencil |
    show it as a gray pencil sketch on white paper | convert the photo to a line drawing |
    please sketch this with a pencil | I want it as a pencil drawing | draw it in graphite |
    make a hand-drawn pencil sketch of it | turn everything into pencil lines"""
_COMIC = """turn it into a comic drawing | make it look like a cartoon | redraw it as a cartoon |
    show it in comic style with dark outlines | give it flat colors and ink outlines |
    please make a cartoon of this | I want it in comic book style | cartoonize the picture |
    convert the photo to a cartoon | draw it like a comic panel"""
_PRINT = """make it look like a newspaper print | turn it into a halftone picture |
    show it as black halftone dots | print it with a coarse halftone screen |
    redraw it in halftone dots | please make it a halftone print | give it a newsprint look |
    convert it to black and white halftone | I want it as printed dots"""


OPERATIONS = (
    Operation("grayscale", "style", _colourful, _grey, lambda p: sentences(_GREY)),
    Operation("sepia", "style", lambda c, d: Plain(), _sepia, lambda p: sentences(_SEPIA_SAYS)),
    Operation(
        "negative",
        "style",
        lambda c, d: Plain(),
        _negative,
        lambda p: sentences(_NEGATIVE),
        undoes=lambda p: sentences(_NEGATIVE.replace("turn it into a photo negative |", "")),
        restores=lambda p: p,
    ),
    Operation(
        "duotone",
        "style",
        lambda c, d: Pair(*d.one(_DUOTONES)),
        _duotone,
        lambda p: sentences(_DUOTONE, dark=p.dark, light=p.light),
    ),
    Operation(
        "posterize",
        "style",
        lambda c, d: Levels(d.one((3, 4, 5))),
        _posterize,
        lambda p: sentences(_POSTER, n=p.levels),
    ),
    Operation(
        "pixel-art",
        "style",
        lambda c, d: Blocks(d.one((16, 20, 26))),
        _pixels,
        lambda p: sentences(_PIXEL),
    ),
    Operation(
        "pencil",
        "style",
        lambda c, d: Strokes(d.between(0.012, 0.03)),
        _pencil,
        lambda p: sentences(_PENCIL),
    ),
    Operation(
        "comic",
        "style",
        lambda c, d: Strokes(d.between(0.002, 0.004)),
        _comic,
        lambda p: sentences(_COMIC),
    ),
    Operation(
        "halftone",
        "style",
        lambda c, d: Blocks(min(d.one((36, 44, 52)), max(8, c.trained // 5))),
        _print,
        lambda p: sentences(_PRINT),
    ),
)
