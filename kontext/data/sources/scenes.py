"""Painted landscapes: the weather source. What weather changes lies where the context shows it.

The cloud is where the sun was; rain, lightning and flakes come from it, and snow lies on what
stands below. So an edit asks for no invention, and a change of colours alone is no answer.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from kontext.data.sources.base import SourceItem
from kontext.data.sources.stable import choose, stable_hash
from schemas.sections.sources import SourceConfig

if TYPE_CHECKING:
    from PIL import ImageDraw

Weather = Literal["sunny", "cloudy", "rainy", "snowy", "stormy"]
_SIDE = 256  # drawn large, reduced by the decode guard like any other image
_SKIES = {  # by weather: one of these for each scene
    "sunny": ("#8fd0f5", "#a9dcef", "#7ec4e8", "#b8e3f2"),
    "cloudy": ("#b9c9d6", "#c4d2da", "#adc0cf", "#cdd9de"),
    "rainy": ("#7f8fa0", "#8896a3", "#748698", "#929fa9"),
    "snowy": ("#a9b9ca", "#b1bfcc", "#a0b2c5", "#bac6d0"),
    "stormy": ("#5d6b7e", "#667387", "#566478", "#6f7b8c"),
}
_GROUNDS = ("#7fb765", "#98c26a", "#5f9f6a", "#b3b765", "#a7935f", "#6c9a8b")
_TREES = ("#2f6d44", "#3d7f3b", "#4d6b2f", "#7a6a2c")
_WALLS = ("#e9d8b8", "#d9a48a", "#c8c2d6", "#e6e2d3")
_ROOFS = ("#a8452f", "#6b4a3a", "#3f5f7a")
_CLOUDS = {"cloudy": "#ffffff", "rainy": "#55636f", "snowy": "#e6edf3", "stormy": "#37414e"}
_SNOW, _RAIN, _LIGHTNING = "#ffffff", "#3e5870", "#ffe14d"

ATTRIBUTION = """
| Painted landscapes | drawn by this project | kontext | CC0-1.0 | `kontext/data/sources/scenes.py` |
"""  # noqa: E501


class SceneSource(SourceConfig):
    """Painted landscapes, each in several weathers."""

    kind: Literal["scenes"] = "scenes"
    scenes: int = Field(100, title="Scenes", ge=1)
    weathers: tuple[Weather, ...] = Field(
        ("sunny", "cloudy", "rainy", "snowy"), title="Weathers of each scene", min_length=2
    )
    seed: int = Field(0, title="Seed of the choice")


def plan(config: SceneSource) -> list[SourceItem]:
    """Every scene in every weather; a scene is the unit that is held out."""
    return [
        SourceItem(
            source="scenes",
            ref=f"{config.seed}-{index}/{weather}",
            group_key=f"scenes:{config.seed}-{index}",
            concept="landscape",
            license_spdx="CC0-1.0",
            author="kontext",
            attributes={"weather": weather},
            synthetic=True,
            payload=draw(f"{config.seed}-{index}", weather),
        )
        for index in range(config.scenes)
        for weather in config.weathers
    ]


@dataclass(frozen=True)
class _Hill:
    height: float  # of its middle line, from the top
    swing: float
    waves: float
    phase: float
    color: str

    def top(self, x: float) -> float:
        return self.height + self.swing * math.sin(
            self.waves * x / _SIDE * 2 * math.pi + self.phase
        )


def draw(key: str, weather: str) -> bytes:
    """PNG bytes of one scene. Everything but the weather is fixed by `key`."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (_SIDE, _SIDE), choose(_SKIES[weather], "sky", key))
    pen = ImageDraw.Draw(image)
    hills = [_hill(key, number) for number in range(2)]
    sun = (84 + stable_hash("sun x", key) % 88, 44 + stable_hash("sun y", key) % 24)
    if weather == "sunny":
        _sun(pen, *sun)
    for hill in hills:
        _ground(pen, hill, snow=weather == "snowy")
    for number in range(4):
        _thing(pen, key, number, hills[1], snow=weather == "snowy")
    if weather != "sunny":
        _cloud(pen, *sun, _CLOUDS[weather])
    if weather in ("rainy", "snowy"):
        _fall(pen, *sun, weather)
    if weather == "stormy":
        _lightning(pen, *sun)
    data = io.BytesIO()
    image.save(data, "PNG", compress_level=1)
    return data.getvalue()


def _hill(key: str, number: int) -> _Hill:
    def part(what: str) -> float:
        return stable_hash(what, number, key) % 1000 / 1000

    height = 150 + 46 * number + 24 * part("height")
    color = choose(_GROUNDS, "ground", number, key)
    return _Hill(height, 4 + 14 * part("swing"), 0.6 + part("waves"), 6.3 * part("phase"), color)


def _sun(pen: ImageDraw.ImageDraw, x: int, y: int) -> None:
    for turn in range(8):
        angle = turn * math.pi / 4
        ends = [(x + r * math.cos(angle), y + r * math.sin(angle)) for r in (30, 42)]
        pen.line(ends, fill="#f7b733", width=7)
    pen.ellipse((x - 24, y - 24, x + 24, y + 24), fill="#fbd449")


def _cloud(pen: ImageDraw.ImageDraw, x: int, y: int, color: str) -> None:
    for right, up, radius in ((-32, 0, 20), (0, 14, 28), (32, 2, 22)):
        pen.ellipse(
            (x + right - radius, y - up - radius, x + right + radius, y - up + radius), color
        )
    pen.rectangle((x - 34, y, x + 36, y + 20), fill=color)


def _fall(pen: ImageDraw.ImageDraw, x: int, y: int, weather: str) -> None:
    """Five columns below the cloud: streaks that end above the hills, or flakes down to them."""
    for column in range(-2, 3):
        for row in range(3 if weather == "rainy" else 4):
            left, top = x + 16 * column + 8 * (row % 2), y + 34 + 26 * row
            if weather == "rainy":
                pen.line((left, top, left - 6, top + 16), fill=_RAIN, width=5)
            else:
                pen.ellipse((left - 5, top, left + 5, top + 10), fill=_SNOW)


def _lightning(pen: ImageDraw.ImageDraw, x: int, y: int) -> None:
    """A flash below the cloud, above the hills."""
    outline = ((4, 18), (30, 18), (14, 44), (28, 44), (-8, 84), (2, 54), (-14, 54))
    pen.polygon([(x + right, y + down) for right, down in outline], fill=_LIGHTNING)


def _ground(pen: ImageDraw.ImageDraw, hill: _Hill, snow: bool) -> None:
    line = [(x, hill.top(x)) for x in range(0, _SIDE + 4, 4)]
    pen.polygon([*line, (_SIDE, _SIDE), (0, _SIDE)], fill=hill.color)
    if snow:
        pen.polygon([*line, *[(x, y + 16) for x, y in reversed(line)]], fill=_SNOW)


def _thing(pen: ImageDraw.ImageDraw, key: str, number: int, hill: _Hill, snow: bool) -> None:
    """A tree or a house on the nearer hill."""
    x = 20 + 60 * number + stable_hash("x", number, key) % 30
    foot = hill.top(x) + 8
    kind = choose(("pine", "pine", "round", "house", "none"), "thing", number, key)
    if kind == "none":
        return
    if kind == "pine":
        color, tall = choose(_TREES, "tree", number, key), 48 + stable_hash("h", number, key) % 24
        pen.rectangle((x - 4, foot - 10, x + 4, foot), fill="#5b4632")
        pen.polygon([(x, foot - tall), (x - 18, foot - 8), (x + 18, foot - 8)], fill=color)
        if snow:
            half = 18 * 0.45
            pen.polygon(
                [(x, foot - tall), (x - half, foot - 0.6 * tall), (x + half, foot - 0.6 * tall)],
                fill=_SNOW,
            )
    elif kind == "round":
        color = choose(_TREES, "tree", number, key)
        pen.rectangle((x - 4, foot - 22, x + 4, foot), fill="#5b4632")
        pen.ellipse((x - 18, foot - 54, x + 18, foot - 18), fill=color)
        if snow:
            pen.chord((x - 18, foot - 54, x + 18, foot - 18), 200, 340, fill=_SNOW)
    elif kind == "house":
        pen.rectangle((x - 18, foot - 28, x + 18, foot), fill=choose(_WALLS, "wall", number, key))
        pen.rectangle((x - 5, foot - 14, x + 5, foot), fill="#4f3d33")
        roof = choose(_ROOFS, "roof", number, key)
        pen.polygon([(x, foot - 50), (x - 24, foot - 26), (x + 24, foot - 26)], fill=roof)
        if snow:
            pen.polygon([(x, foot - 50), (x - 15, foot - 35), (x + 15, foot - 35)], fill=_SNOW)
