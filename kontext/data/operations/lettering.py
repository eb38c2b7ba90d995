"""Words on the picture: written, removed, exchanged, recoloured."""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from kontext.data.operations.base import (
    COLOURS,
    PLACES,
    Canvas,
    Draw,
    Edit,
    Mask,
    Operation,
    Share,
    blended,
    grown,
    luma,
    sentences,
    stands_out,
)
from kontext.data.pixels import Pixels

WORDS = (
    *("HELLO", "OPEN", "SALE", "WELCOME", "THANKS", "TODAY", "SUMMER", "WINTER", "HAPPY", "SMILE"),
    *("MUSIC", "COFFEE", "BAKERY", "GARDEN", "MARKET", "HOTEL", "STATION", "MUSEUM", "LIBRARY"),
    *("SPRING", "AUTUMN", "SUNDAY", "FRIDAY", "HOLIDAY", "TRAVEL", "NATURE", "OCEAN", "FOREST"),
    *("NEW", "YES", "STOP", "GO", "FREE", "BEST", "DREAM", "LOVE", "PEACE", "LUCKY", "MAGIC"),
    *("2024", "1999", "100", "42", "No. 7", "Room 12", "Chapter 3", "Day 1", "Good morning"),
    *("Good night", "Hello world", "Thank you", "Well done", "The End", "Once upon a time"),
)
_FONTS = {
    "sans": "DejaVuSans-Bold.ttf",
    "serif": "DejaVuSerif-Bold.ttf",
    "typewriter": "DejaVuSansMono-Bold.ttf",
}
_LONGEST = 0.82  # share of the width that words may take
_HEIGHT = 0.17  # of letters, as a share of the shorter side, where the words are short enough
_LEAST = 9  # pixels that letters are high in training, where they can still be read
_TRIES = 6
_ROWS = ("at the top", "in the middle", "at the bottom")  # long words fit nowhere else


@dataclass(frozen=True)
class Lettering:
    """Words in a colour at a place, on a plate of another colour, or on the picture itself ("")."""

    words: str
    color: str
    plate: str
    font: str
    place: str


@dataclass(frozen=True)
class Rewording:
    """Lettering, and what becomes of one of its fields."""

    words: str
    color: str
    plate: str
    font: str
    place: str
    to: str


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / _FONTS[name]
    return ImageFont.truetype(str(path), size)


def _masks(canvas: Canvas, lettering: Lettering, widest: str) -> tuple[Share, Share]:
    """(letters, plate) [H, W]; the plate is as wide as `widest` needs, whatever is on it."""
    width, height = canvas.size
    size = _size(canvas, lettering.font, widest)
    x, y = PLACES[lettering.place]
    middle = round(x * width), round(y * height)
    letters = Image.new("L", (width, height))
    font = _font(lettering.font, size)
    ImageDraw.Draw(letters).text(middle, lettering.words, font=font, fill=255, anchor="mm")
    left, top, right, bottom = font.getbbox(widest, anchor="mm")
    pad = size * 0.35
    box = (middle[0] + left - pad, middle[1] + top - pad, middle[0] + right + pad,
           middle[1] + bottom + pad)  # fmt: skip
    plate = Image.new("L", (width, height))
    ImageDraw.Draw(plate).rounded_rectangle(box, radius=size * 0.2, fill=255)
    return np.asarray(letters, np.float32) / 255, np.asarray(plate, np.float32) / 255


def _size(canvas: Canvas, font: str, words: str) -> int:
    """The largest size, at most _HEIGHT, at which the words fit."""
    most = max(8, round(_HEIGHT * min(canvas.size)))
    left, _, right, _ = _font(font, 100).getbbox(words)
    return max(8, min(most, int(_LONGEST * canvas.size[0] * 100 / max(1, right - left))))


def _readable(canvas: Canvas, font: str) -> list[str]:
    """Words that are large enough in training."""
    return [words for words in WORDS if _size(canvas, font, words) >= _LEAST * canvas.unit]


def _lettered(
    canvas: Canvas, lettering: Lettering, widest: str = "", rim_for: str = ""
) -> tuple[Pixels, Mask]:
    """The lettered picture, and where it is; a rim is the one that `rim_for` has."""
    letters, plate = _masks(canvas, lettering, widest or lettering.words)
    rgb: Pixels = canvas.rgb
    region = np.asarray(letters > 0, np.bool_)
    if lettering.plate:
        rgb = blended(rgb, COLOURS[lettering.plate], plate)
        region = region | (plate > 0)
    else:  # a rim of the other tone, so that they can be read on anything
        rim = grown(letters, max(1, round(0.006 * min(canvas.size))))
        light = sum(COLOURS[rim_for or lettering.color]) > 380
        rgb = blended(rgb, (16, 16, 16) if light else (250, 250, 250), rim)
        region = region | (rim > 0)
    return blended(rgb, COLOURS[lettering.color], letters), region


def _draw(canvas: Canvas, draw: Draw) -> Lettering | None:
    for _ in range(_TRIES):
        font = draw.one(tuple(_FONTS))
        readable = _readable(canvas, font)
        if not readable:
            return None
        words = draw.one(readable)
        places = tuple(PLACES) if len(words) <= 4 else _ROWS
        color, plate = draw.two(tuple(COLOURS))
        lettering = Lettering(words, color, plate if draw.one((True, False)) else "", font,
                              draw.one(places))  # fmt: skip
        if lettering.plate and _legible(color, plate):
            return lettering
        letters, _ = _masks(canvas, lettering, words)
        if not lettering.plate and stands_out(color, canvas.rgb[letters > 0.5][None]):
            return lettering
    return None


def _legible(color: str, plate: str) -> bool:
    one, other = (luma(np.array(COLOURS[name])) for name in (color, plate))
    return bool(abs(one - other) > 80)


def _write(canvas: Canvas, lettering: Lettering) -> Edit:
    target, region = _lettered(canvas, lettering)
    return Edit(canvas.rgb, target, region)


def _says_write(lettering: Lettering) -> list[str]:
    if lettering.plate:
        text = """write '{w}' in {c} on a {p} label {place} | add a {p} label with '{w}' {place} |
            put a {p} sign reading '{w}' {place} | place a {p} plate that says '{w}' {place} |
            please add the text '{w}' on a {p} label {place} | {c} '{w}' on a {p} plate {place} |
            stick a {p} label that reads '{w}' {place} | print '{w}' on a {p} label {place}"""
    else:
        text = """write '{w}' in {c} letters {place} | add the text '{w}' in {c} {place} |
            put the word or words '{w}' {place} in {c} | print '{w}' {place} in {c} letters |
            please write '{w}' {place} in {c} | I want {c} text {place} that says '{w}' |
            letter '{w}' across the picture {place}, in {c} | let it say '{w}' {place} in {c}"""
    return sentences(text, w=lettering.words, c=lettering.color, p=lettering.plate,
                     place=lettering.place)  # fmt: skip


def _says_unwrite(lettering: Lettering) -> list[str]:
    thing = f"{lettering.plate} label" if lettering.plate else f"{lettering.color} text"
    return sentences(
        """remove the text '{w}' | erase '{w}' | take the {thing} away | delete the {thing} |
        get rid of the {thing} {place} | please remove '{w}' | I want the text gone |
        show the picture without the {thing} | no text, please | clear away '{w}' {place}""",
        w=lettering.words,
        thing=thing,
        place=lettering.place,
    )


# --- other words, another colour -----------------------------------------------------------------


def _one(change: Rewording) -> Lettering:
    return Lettering(change.words, change.color, change.plate, change.font, change.place)


def _draw_words(canvas: Canvas, draw: Draw) -> Rewording | None:
    found = _draw(canvas, draw)
    if found is None:
        return None
    fits = found.place in _ROWS
    options = [
        words
        for words in _readable(canvas, found.font)
        if words != found.words and (fits or len(words) <= 4)
    ]
    return Rewording(**vars(found), to=draw.one(options)) if options else None


def _reword(canvas: Canvas, change: Rewording) -> Edit:
    # one size for both, so that no more than the letters changes
    widest = max(change.words, change.to, key=lambda w: _font(change.font, 100).getlength(w))
    context, before = _lettered(canvas, _one(change), widest)
    target, after = _lettered(canvas, replace(_one(change), words=change.to), widest)
    return Edit(context, target, before | after)


def _says_reword(change: Rewording) -> list[str]:
    return sentences(
        """replace '{w}' with '{to}' | change the text to '{to}' | make it read '{to}' |
        change '{w}' to '{to}' | write '{to}' instead of '{w}' | let it say '{to}' |
        please change the words to '{to}' | it should read '{to}', not '{w}' |
        I want it to say '{to}' | swap the text '{w}' for '{to}'""",
        w=change.words,
        to=change.to,
    )


def _draw_ink(canvas: Canvas, draw: Draw) -> Rewording | None:
    found = _draw(canvas, draw)
    if found is None:
        return None
    letters, _ = _masks(canvas, found, found.words)
    under = canvas.rgb[letters > 0.5][None]
    options = [
        name
        for name in COLOURS
        if name != found.color
        and (_legible(name, found.plate) if found.plate else stands_out(name, under))
    ]
    return Rewording(**vars(found), to=draw.one(options)) if options else None


def _reink(canvas: Canvas, change: Rewording) -> Edit:
    context, before = _lettered(canvas, _one(change))
    target, after = _lettered(canvas, replace(_one(change), color=change.to), rim_for=change.color)
    return Edit(context, target, before | after)


def _says_reink(change: Rewording) -> list[str]:
    return sentences(
        """make the letters {to} | change the color of the text to {to} |
        write '{w}' in {to} instead of {c} | turn the text '{w}' {to} | the text should be {to} |
        please make the writing {to} | I want '{w}' in {to} letters |
        recolor the letters from {c} to {to} | print '{w}' in {to}""",
        w=change.words,
        c=change.color,
        to=change.to,
    )


OPERATIONS = (
    Operation("write-text", "text", _draw, _write, _says_write, undoes=_says_unwrite),
    Operation(
        "replace-text",
        "text",
        _draw_words,
        _reword,
        _says_reword,
        undoes=lambda p: _says_reword(replace(p, words=p.to, to=p.words)),
    ),
    Operation(
        "recolor-text",
        "text",
        _draw_ink,
        _reink,
        _says_reink,
        undoes=lambda p: _says_reink(replace(p, color=p.to, to=p.color)),
    ),
)
