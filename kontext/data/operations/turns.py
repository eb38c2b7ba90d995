"""Mirrors and half turns: nothing is cut off, and doing it again leads back."""

from dataclasses import dataclass

import numpy as np

from kontext.data.operations.base import Canvas, Draw, Edit, Operation, sentences


@dataclass(frozen=True)
class Turn:
    """Which way."""

    way: str


def _apply(canvas: Canvas, parameters: Turn) -> Edit:
    rgb = canvas.rgb
    turned = {"mirror": rgb[:, ::-1], "flip": rgb[::-1], "turn": rgb[::-1, ::-1]}[parameters.way]
    return Edit(rgb, np.ascontiguousarray(turned), canvas.everywhere)


_WORDS = {
    "mirror": """mirror the picture | flip it horizontally | swap left and right |
        make a mirror image of it | please mirror this image from left to right |
        I want the picture the other way round, as in a mirror | reverse it left to right |
        show it mirrored | flip the whole image sideways | exchange the left and the right side""",
    "flip": """flip it vertically | swap top and bottom | mirror the picture from top to bottom |
        flip the image over its horizontal middle | show it as its reflection in water |
        please flip this picture vertically | exchange the upper and the lower side |
        mirror it upside down | make a vertical mirror image of it""",
    "turn": """turn it upside down by half a turn | rotate it by 180 degrees |
        turn the picture by 180 degrees | give the image half a turn |
        please rotate this picture by half a turn | show it rotated by 180 degrees |
        spin the whole picture half a turn | stand it on its head by a rotation""",
}


def _operation(name: str, way: str) -> Operation:
    def draw(canvas: Canvas, draw: Draw) -> Turn | None:
        return Turn(way)

    def says(parameters: Turn) -> list[str]:
        return sentences(_WORDS[parameters.way])

    return Operation(name, "global", draw, _apply, says, undoes=says, restores=lambda p: p)


OPERATIONS = (
    _operation("mirror", "mirror"),
    _operation("flip", "flip"),
    _operation("half-turn", "turn"),
)
