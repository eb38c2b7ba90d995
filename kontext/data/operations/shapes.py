"""Outlines of the shapes that are drawn, and their soft masks."""

from collections.abc import Callable
from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageDraw

from kontext.data.operations.base import Share

Points = list[tuple[float, float]]  # in units of the radius around the middle, y down
_FINER = 4  # a mask is drawn so much larger and reduced


def _regular(corners: int, turn: float = -pi / 2, inner: float = 1.0) -> Points:
    """A polygon; with `inner` a star, whose every other corner is at that radius."""
    count = corners * (2 if inner != 1 else 1)
    return [
        (
            (inner if inner != 1 and n % 2 else 1) * cos(turn + 2 * pi * n / count),
            (inner if inner != 1 and n % 2 else 1) * sin(turn + 2 * pi * n / count),
        )
        for n in range(count)
    ]


def _heart() -> Points:
    points = []
    for n in range(90):
        t = 2 * pi * n / 90
        x = 16 * sin(t) ** 3
        y = 13 * cos(t) - 5 * cos(2 * t) - 2 * cos(3 * t) - cos(4 * t)
        points.append((x / 17, -(y + 2) / 17))
    return points


def _cross() -> Points:
    w = 0.34
    return [(-w, -1), (w, -1), (w, -w), (1, -w), (1, w), (w, w), (w, 1), (-w, 1), (-w, w), (-1, w),
            (-1, -w), (-w, -w)]  # fmt: skip


def _moon() -> Points:
    outer = [(cos(t), sin(t)) for t in np.linspace(0.22 * pi, 1.78 * pi, 70)]
    x0, y0 = outer[0]
    radius = ((x0 - 0.62) ** 2 + y0**2) ** 0.5
    turn = float(np.arctan2(y0, x0 - 0.62))
    inner = [
        (0.62 + radius * cos(t), radius * sin(t)) for t in np.linspace(2 * pi - turn, turn, 60)
    ]
    return [(x + 0.2, y) for x, y in outer + inner]


_ARROW: Points = [
    (-1, -0.28),
    (0.1, -0.28),
    (0.1, -0.72),
    (1, 0),
    (0.1, 0.72),
    (0.1, 0.28),
    (-1, 0.28),
]
_HOUSE: Points = [
    (0, -1),
    (1, -0.1),
    (0.78, -0.1),
    (0.78, 0.85),
    (-0.78, 0.85),
    (-0.78, -0.1),
    (-1, -0.1),
]
_DROP: Points = [(0, -1.05)] + [
    (0.66 * cos(t), 0.32 + 0.66 * sin(t)) for t in np.linspace(-0.2 * pi, 1.2 * pi, 60)
]
_BOLT: Points = [(0.25, -1), (-0.6, 0.15), (-0.05, 0.15), (-0.25, 1), (0.6, -0.25), (0.05, -0.25)]

SHAPES: dict[str, Callable[[], Points]] = {
    "circle": lambda: _regular(64),
    "square": lambda: _regular(4, pi / 4),
    "triangle": lambda: _regular(3),
    "star": lambda: _regular(5, inner=0.42),
    "heart": _heart,
    "diamond": lambda: [(0, -1), (0.68, 0), (0, 1), (-0.68, 0)],
    "hexagon": lambda: _regular(6),
    "cross": _cross,
    "crescent moon": _moon,
    "arrow": lambda: _ARROW,
    "house shape": lambda: _HOUSE,
    "drop": lambda: _DROP,
    "lightning bolt": lambda: _BOLT,
    "sun": lambda: _regular(14, inner=0.72),
}


def drawn(size: tuple[int, int], shape: str, middle: tuple[float, float], radius: float) -> Share:
    """How much of each pixel a shape covers [H, W].

    Args:
        size: width and height.
        middle: as shares of width and height.
        radius: as a share of the shorter side.
    """
    width, height = size
    reach = radius * min(size)
    left, top = middle[0] * width, middle[1] * height
    corners = [(left + x * reach, top + y * reach) for x, y in SHAPES[shape]()]
    x0 = max(0, int(min(x for x, _ in corners)) - 1)
    y0 = max(0, int(min(y for _, y in corners)) - 1)
    x1 = min(width, int(max(x for x, _ in corners)) + 2)
    y1 = min(height, int(max(y for _, y in corners)) + 2)
    large = Image.new("L", ((x1 - x0) * _FINER, (y1 - y0) * _FINER))
    points = [((x - x0) * _FINER, (y - y0) * _FINER) for x, y in corners]
    ImageDraw.Draw(large).polygon(points, fill=255)
    cover = np.zeros((height, width), np.float32)
    small = large.resize((x1 - x0, y1 - y0), Image.Resampling.BOX)
    cover[y0:y1, x0:x1] = np.asarray(small, np.float32) / 255
    return cover
