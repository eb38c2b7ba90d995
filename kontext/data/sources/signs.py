"""Painted signs: the text-editing source. One scene, several words, nothing else changes."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from kontext.data.sources.base import SourceItem
from kontext.data.sources.stable import choose, shuffled, stable_hash
from schemas.sections.sources import SourceConfig

if TYPE_CHECKING:
    from PIL import ImageFont

WORDS = (
    *("OPEN", "SALE", "CAFE", "STOP", "EXIT", "TAXI", "FREE", "COOL", "NEW", "HELP"),
    *("YES", "NO", "GO", "OK", "UP", "HI"),
    *"0123456789",
)
_SIDE = 256  # drawn large, reduced by the decode guard like any other image
_WALLS = ("#d9e6ef", "#f1dfc6", "#cfe3cf", "#e5d3ea", "#b9c4d0", "#f3e9b5", "#c9806a", "#5b6b8c")
_BOARDS = {
    "white": ("#fdfbf3", "#22262e"),
    "red": ("#c8352e", "#ffffff"),
    "blue": ("#2459a8", "#ffffff"),
    "green": ("#2f7d4a", "#ffffff"),
    "yellow": ("#f4c531", "#22262e"),
    "black": ("#23262d", "#f6e27a"),
}
_FONTS = ("DejaVuSans-Bold.ttf", "DejaVuSerif-Bold.ttf")
_SHORT = 2  # letters, up to which a board is small and may stand anywhere


ATTRIBUTION = """
| Painted signs | drawn by this project | kontext | CC0-1.0 | `kontext/data/sources/signs.py` |
"""


class SignSource(SourceConfig):
    """Painted signs: short words in a real font on a coloured board over a drawn scene."""

    kind: Literal["signs"] = "signs"
    scenes: int = Field(100, title="Scenes", ge=1)
    words: tuple[str, ...] = Field((), title="Words (empty: the built-in list)")
    words_per_scene: int = Field(5, title="Words per scene", ge=2)
    seed: int = Field(0, title="Seed of the choice")


def plan(config: SignSource) -> list[SourceItem]:
    """`words_per_scene` signs for each scene; a scene is the unit that is held out."""
    words = config.words or WORDS
    small = max(map(len, words)) <= _SHORT
    items = []
    for index in range(config.scenes):
        key = f"{config.seed}-{index}"
        board = choose(sorted(_BOARDS), "board", key)
        for word in shuffled(words, "words", key)[: config.words_per_scene]:
            items.append(
                SourceItem(
                    source="signs",
                    ref=f"{key}/{word}",
                    group_key=f"signs:{key}",
                    concept=f"{board} sign",
                    license_spdx="CC0-1.0",
                    author="kontext",
                    attributes={"text": word},
                    synthetic=True,
                    payload=draw(key, board, word, small),
                )
            )
    return items


def draw(key: str, board: str, word: str, small: bool = False) -> bytes:
    """PNG bytes of one sign. Everything but the word is fixed by `key` and `board`.

    Args:
        small: a board for one or two letters, in one place or another.
    """
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (_SIDE, _SIDE), choose(_WALLS, "wall", key))
    pen = ImageDraw.Draw(image)
    floor = 176 + stable_hash("floor", key) % 40
    pen.rectangle((0, floor, _SIDE, _SIDE), fill=choose(_WALLS[::-1], "floor", key))
    half = 64 + stable_hash("half", key) % 16 if small else 114
    middle = 112 + stable_hash("left", key) % 33 if small else 128
    pen.rectangle((middle - 10, 150, middle + 10, _SIDE), fill="#6b5344")
    top = (28 if small else 52) + stable_hash("top", key) % 24
    face, ink = _BOARDS[board]
    place = (middle - half, top, middle + half, top + 110)
    pen.rounded_rectangle(place, radius=18, fill=face, outline="#3b3f46", width=6)
    font = _fit(choose(_FONTS, "font", key), word)
    pen.text((middle, top + 55), word, font=font, fill=ink, anchor="mm")
    data = io.BytesIO()
    image.save(data, "PNG", compress_level=1)
    return data.getvalue()


@cache
def _fit(name: str, word: str) -> ImageFont.FreeTypeFont:
    """The largest size, at most 92 px, at which the word fits the board."""
    import matplotlib
    from PIL import ImageFont

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    for size in range(92, 20, -4):
        font = ImageFont.truetype(str(path), size)
        left, _, right, _ = font.getbbox(word)
        if right - left <= 204:
            return font
    return ImageFont.truetype(str(path), 20)
