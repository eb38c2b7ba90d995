"""Weather and frames: rain, snow, fog, dark corners, a frame around the picture."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from kontext.data.operations.base import (
    COLOURS,
    Canvas,
    Draw,
    Edit,
    Operation,
    Share,
    blended,
    luma,
    rounded,
    sentences,
    whole,
)


@dataclass(frozen=True)
class Weather:
    """How dense it is, and the seed of where it falls."""

    heavy: bool
    seed: int


@dataclass(frozen=True)
class Frame:
    """A frame of a colour; `width` is a share of the shorter side."""

    color: str
    width: float
    wide: bool


@dataclass(frozen=True)
class Corners:
    """How dark the corners become."""

    strength: float


def _draw_weather(canvas: Canvas, draw: Draw) -> Weather | None:
    if luma(canvas.rgb).mean() > 225:
        return None  # white on white shows nothing
    return Weather(draw.one((False, True)), draw.seed())


def _dull(canvas: Canvas, share: float, light: float) -> Canvas:
    """Under clouds: less colour, less light."""
    grey = luma(canvas.rgb)[..., None]
    return Canvas(rounded((canvas.rgb + (grey - canvas.rgb) * share) * light))


def _count(canvas: Canvas, weather: Weather) -> int:
    """Drops or flakes: fewer where one of them is a pixel in training."""
    width, height = canvas.size
    dense = (420 if weather.heavy else 150) * min(1.0, max(0.35, canvas.trained / 256))
    return round(dense * width * height / min(canvas.size) ** 2)


def _rain(canvas: Canvas, parameters: Weather) -> Edit:
    width, height = canvas.size
    side = min(canvas.size)
    random = np.random.default_rng(parameters.seed)
    drops = _count(canvas, parameters)
    slant = float(random.uniform(-0.25, 0.25))
    streaks = Image.new("L", (width, height))
    pen = ImageDraw.Draw(streaks)
    for x, y, length, tone in random.random((drops, 4)):
        long = (0.04 + 0.07 * length) * side
        left, top = x * 1.3 * width - 0.15 * width, y * 1.1 * height - 0.1 * height
        pen.line(
            (left, top, left + slant * long, top + long),
            fill=int(110 + 110 * tone),
            width=max(1, round(max(side * 0.004, canvas.unit * 0.8))),
        )
    soft = streaks.filter(ImageFilter.GaussianBlur(side * 0.0012))
    share: Share = np.asarray(soft, np.float32) / 255 * 0.8
    under = _dull(canvas, 0.4, 0.78)
    return Edit(canvas.rgb, blended(under.rgb, (214, 222, 232), share), canvas.everywhere)


def _snow(canvas: Canvas, parameters: Weather) -> Edit:
    width, height = canvas.size
    side = min(canvas.size)
    random = np.random.default_rng(parameters.seed)
    flakes = _count(canvas, parameters)
    falling = Image.new("L", (width, height))
    pen = ImageDraw.Draw(falling)
    for x, y, near, tone in random.random((flakes, 4)):
        radius = max(0.8 * canvas.unit, (0.003 + 0.010 * near**3) * side)
        left, top = x * width, y * height
        pen.ellipse(
            (left - radius, top - radius, left + radius, top + radius), fill=int(170 + 85 * tone)
        )
    soft = falling.filter(ImageFilter.GaussianBlur(side * 0.0022))
    under = _dull(canvas, 0.35, 0.92)
    target = blended(under.rgb, (252, 253, 255), np.asarray(soft, np.float32) / 255)
    return Edit(canvas.rgb, target, canvas.everywhere)


def _fog(canvas: Canvas, parameters: Weather) -> Edit:
    width, height = canvas.size
    random = np.random.default_rng(parameters.seed)
    coarse = Image.fromarray((random.random((5, 7)) * 255).astype(np.uint8))
    clouds = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32) / 255
    base = 0.62 if parameters.heavy else 0.34
    share = np.clip(base + 0.35 * (clouds - 0.5), 0, 0.85).astype(np.float32)
    return Edit(canvas.rgb, blended(canvas.rgb, (216, 220, 224), share), canvas.everywhere)


_FALLS = "let it {verb} {hard} | it should {verb} {hard} | make it {verb} {hard}"
_WEATHER = """add {much} {what} | make it a {adjective} scene, {much} {what} |
    show the scene in {much} {what} | please add {much} {what} to the picture |
    put {much} {what} over the whole picture | I want {much} {what} in this photo |
    change the weather to {much} {what} | the same picture with {much} {what} |
    can you make it {adjective}, with {much} {what}?"""
_CLEAR = """remove the {what} | clear the weather, no more {what} | stop the {what} |
    show the scene without {what} | take the {what} away | please remove the {what} |
    I want clear weather, no {what} | let the {what} end | the same picture without the {what}"""


def _weather(
    name: str,
    apply: Callable[[Canvas, Weather], Edit],
    adjective: str,
    verb: str,
    much: tuple[str, str],
) -> Operation:
    def says(parameters: Weather) -> list[str]:
        words = {"what": name, "much": much[parameters.heavy], "adjective": adjective}
        hard = "hard" if parameters.heavy else "a little"
        falls = sentences(_FALLS, verb=verb, hard=hard) if verb else []
        return [*sentences(_WEATHER, **words), *falls]

    def undoes(parameters: Weather) -> list[str]:
        return sentences(_CLEAR, what=name)

    return Operation(name, "global", _draw_weather, apply, says, undoes)


# --- frame and corners ---------------------------------------------------------------------------


def _draw_frame(canvas: Canvas, draw: Draw) -> Frame | None:
    wide = draw.one((False, True))
    return Frame(
        draw.one(tuple(COLOURS)),
        draw.between(0.075, 0.1) if wide else draw.between(0.03, 0.04),
        wide,
    )


def _frame(canvas: Canvas, parameters: Frame) -> Edit:
    edge = max(1, round(parameters.width * min(canvas.size)))
    region = canvas.everywhere
    region[edge:-edge, edge:-edge] = False
    target = blended(canvas.rgb, COLOURS[parameters.color], region.astype(np.float32))
    return Edit(canvas.rgb, target, region)


def _says_frame(parameters: Frame) -> list[str]:
    return sentences(
        """add a {w} {c} frame | put a {w} {c} border around the picture |
        frame the picture in {c}, with a {w} edge | draw a {w} {c} frame along the edges |
        please add a {w} {c} border | give the photo a {w} {c} frame |
        I want a {w} {c} frame around it | surround it with a {w} {c} border |
        let a {w} {c} border run around the image""",
        w="wide" if parameters.wide else "thin",
        c=parameters.color,
    )


def _says_unframe(parameters: Frame) -> list[str]:
    return sentences(
        """remove the {c} frame | take the frame away | get rid of the {c} border |
        show the picture without the {c} frame | delete the border | please remove the {c} frame |
        I want no frame around it | continue the picture to its edges, without the frame""",
        c=parameters.color,
    )


def _vignette(canvas: Canvas, parameters: Corners) -> Edit:
    width, height = canvas.size
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    far = np.clip((x * x + y * y - 0.35) / 1.3, 0, 1)
    return whole(canvas, canvas.rgb * (1 - parameters.strength * far)[..., None])


_VIGNETTE = """darken the corners | add a vignette | let the edges fade to dark |
    give it dark corners like an old lens | put a dark vignette around the picture |
    please add a vignette to this photo | shade the corners | make the borders darker |
    I want dark corners on this picture"""
_UNVIGNETTE = """remove the vignette | brighten the dark corners | take away the dark edges |
    make the light even, without the vignette | please remove the dark corners |
    get rid of the vignette | the corners should be as bright as they were"""

OPERATIONS = (
    _weather("rain", _rain, "rainy", "rain", ("light", "heavy")),
    _weather("snow", _snow, "snowy", "snow", ("light", "heavy")),
    _weather("fog", _fog, "foggy", "", ("thin", "thick")),
    Operation("frame", "local", _draw_frame, _frame, _says_frame, undoes=_says_unframe),
    Operation(
        "vignette",
        "global",
        lambda c, d: Corners(d.between(0.6, 0.85)) if luma(c.rgb).mean() > 50 else None,
        _vignette,
        lambda p: sentences(_VIGNETTE),
        undoes=lambda p: sentences(_UNVIGNETTE),
    ),
)
