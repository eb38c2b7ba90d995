"""Drawn shapes: added and removed, recoloured, moved, resized, exchanged for others."""

from dataclasses import dataclass, replace
from typing import Any

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
    sentences,
    stands_out,
)
from kontext.data.operations.shapes import SHAPES, drawn
from kontext.data.pixels import Pixels

_SMALL, _LARGE = 0.09, 0.18  # radius of a sticker, as a share of the shorter side
_EDGE = 0.014  # of paper around a sticker, as a share of the shorter side
_TRIES = 6


@dataclass(frozen=True)
class Sticker:
    """A shape that lies on the picture; `radius` is a share of the shorter side."""

    shape: str
    color: str
    place: str
    radius: float


@dataclass(frozen=True)
class Change:
    """The sticker before and after, which differ in one thing."""

    shape: str
    color: str
    place: str
    radius: float
    to: str | float


def _cover(canvas: Canvas, sticker: Sticker) -> Share:
    return drawn(canvas.size, sticker.shape, PLACES[sticker.place], sticker.radius)


def _with(canvas: Canvas, sticker: Sticker) -> Pixels:
    """The picture with a sticker, which has a thin white edge as cut-out paper has."""
    paper = blended(canvas.rgb, (252, 252, 252), _paper(canvas, sticker))
    return blended(paper, COLOURS[sticker.color], _cover(canvas, sticker))


def _paper(canvas: Canvas, sticker: Sticker) -> Share:
    return grown(_cover(canvas, sticker), max(1, round(_EDGE * min(canvas.size))))


def _region(canvas: Canvas, *stickers: Sticker) -> Mask:
    region = ~canvas.everywhere
    for sticker in stickers:
        region |= _paper(canvas, sticker) > 0
    return region


def _draw_sticker(canvas: Canvas, draw: Draw) -> Sticker | None:
    """A sticker of a colour that shows where it lies."""
    for _ in range(_TRIES):
        sticker = Sticker(
            draw.one(tuple(SHAPES)),
            draw.one(tuple(COLOURS)),
            draw.one(tuple(PLACES)),
            draw.between(0.11, 0.16),
        )
        if stands_out(sticker.color, canvas.rgb[_cover(canvas, sticker) > 0.5][None]):
            return sticker
    return None


def _add(canvas: Canvas, sticker: Sticker) -> Edit:
    return Edit(canvas.rgb, _with(canvas, sticker), _region(canvas, sticker))


def _a(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _what(sticker: Sticker) -> str:
    return f"{sticker.color} {sticker.shape}"


def _says_add(sticker: Sticker) -> list[str]:
    return sentences(
        """add {a_what} {place} | put {a_what} {place} | place {a_what} {place} |
        stick {a_what} onto the picture {place} | draw {a_what} {place} |
        please add {a_what} {place} | there should be {a_what} {place} |
        I want {a_what} {place} | paste {a_what} {place} | let {a_what} appear {place}""",
        a_what=_a(_what(sticker)),
        place=sticker.place,
    )


def _says_remove(sticker: Sticker) -> list[str]:
    return sentences(
        """remove the {what} | take the {what} away | get rid of the {what} |
        delete the {what} {place} | erase the {what} | please remove the {what} {place} |
        I want the {what} gone | no more {what} | show the picture without the {what} |
        make the {what} disappear""",
        what=_what(sticker),
        place=sticker.place,
    )


# --- changes of a sticker that is there ----------------------------------------------------------


def _before(change: Change) -> Sticker:
    return Sticker(change.shape, change.color, change.place, change.radius)


def _after(change: Change, field: str) -> Sticker:
    return _with_field(_before(change), field, change.to)


def _with_field(sticker: Sticker, field: str, value: Any) -> Sticker:
    return replace(sticker, **{field: value})


def _changed(canvas: Canvas, change: Change, field: str) -> Edit:
    one, other = _before(change), _after(change, field)
    return Edit(_with(canvas, one), _with(canvas, other), _region(canvas, one, other))


def _swapped(change: Change, field: str) -> Change:
    """The way back."""
    fields: dict[str, Any] = {field: change.to, "to": getattr(change, field)}
    return replace(change, **fields)


def _operation(name: str, field: str, text: str) -> Operation:
    def draw(canvas: Canvas, draw: Draw) -> Change | None:
        sticker = _draw_sticker(canvas, draw)
        if sticker is None:
            return None
        to = _other(sticker, field, canvas, draw)
        return None if to is None else Change(**vars(sticker), to=to)

    def says(change: Change) -> list[str]:
        one, other = _before(change), _after(change, field)
        larger = "larger" if other.radius > one.radius else "smaller"
        return sentences(
            text, what=_what(one), color=one.color, shape=one.shape, to=change.to,
            a_to=_a(str(change.to)), place=one.place, larger=larger,
            grow="grow" if larger == "larger" else "shrink",
        )  # fmt: skip

    return Operation(
        name,
        "local",
        draw,
        lambda canvas, change: _changed(canvas, change, field),
        says,
        undoes=lambda change: says(_swapped(change, field)),
    )


def _other(sticker: Sticker, field: str, canvas: Canvas, draw: Draw) -> str | float | None:
    """Another value of one field that shows as well."""
    if field == "radius":
        return _LARGE if sticker.radius < 0.135 else _SMALL
    options: dict[str, tuple[str, ...]] = {
        "color": tuple(COLOURS), "place": tuple(PLACES), "shape": tuple(SHAPES)
    }  # fmt: skip
    for _ in range(_TRIES):
        value = draw.one(options[field])
        other = _with_field(sticker, field, value)
        under = canvas.rgb[_cover(canvas, other) > 0.5][None]
        if value != getattr(sticker, field) and stands_out(other.color, under):
            return value
    return None


_RECOLOR = """make the {what} {to} | change the color of the {shape} to {to} |
    turn the {what} {to} | recolor the {what} {to} | paint the {shape} {to} |
    the {what} should be {to} | please make the {shape} {to} instead of {color} |
    I want the {shape} in {to} | change the {shape} from {color} to {to} | color the {shape} {to}"""
_MOVE = """move the {what} so that it is {to} | put the {what} {to} instead |
    the {what} should be {to} | shift the {what}, it belongs {to} | place the {what} {to} |
    please move the {what} to where it is {to} | I want the {what} {to} |
    take the {what} and put it {to}"""
_RESIZE = """make the {what} {larger} | let the {what} {grow} | the {what} should be {larger} |
    resize the {what}, it should be {larger} | please make the {shape} {larger} |
    I want a {larger} {what} | show the {what} {larger} | redraw the {shape} {larger}"""
_REPLACE = """replace the {what} with {a_to} | turn the {shape} into {a_to} |
    change the {shape} to {a_to} | swap the {shape} for {a_to} |
    make it {a_to} instead of {a_shape} | please replace the {shape} with {a_to} |
    I want {a_to} where the {shape} is | put {a_to} in place of the {what}""".replace(
    "{a_shape}", "the {shape}"
)

OPERATIONS = (
    Operation("add-shape", "local", _draw_sticker, _add, _says_add, undoes=_says_remove),
    _operation("recolor-shape", "color", _RECOLOR),
    _operation("move-shape", "place", _MOVE),
    _operation("resize-shape", "radius", _RESIZE),
    _operation("replace-shape", "shape", _REPLACE),
)
