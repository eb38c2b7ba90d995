"""Where everything of the lineage diagram lies: one box per stage with its digest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kontext.engine.stage import Stage
from kontext.store.artifacts.lineage import reduced_edges
from schemas.manifest import Manifest

BOX_W, BOX_H, GAP_X, GAP_Y, PAD = 148, 64, 26, 46, 8


@dataclass(frozen=True)
class Node:
    """A stage and its artifact."""

    stage: Stage
    digest: str = ""  # "" for a stage still to come
    manifest: Manifest | None = None  # not at hand before the artifact is finished


def drawing(nodes: Sequence[Node], columns: int = 6) -> dict[str, Any]:
    """What `lineage.svg` draws: `columns` boxes to a row, arrows along `reduced_edges`."""
    place = {node.stage.name: (i % columns, i // columns) for i, node in enumerate(nodes)}
    rows = -(-len(nodes) // columns)
    edges = reduced_edges({node.stage.name: node.stage.inputs for node in nodes})
    return {
        "width": PAD * 2 + columns * BOX_W + (columns - 1) * GAP_X,
        "height": PAD * 2 + rows * BOX_H + (rows - 1) * GAP_Y,
        "box_width": BOX_W,
        "box_height": BOX_H,
        "edges": [_edge(place, *edge) for edge in edges],
        "boxes": [(node, *_corner(place[node.stage.name])) for node in nodes],
    }


def _corner(cell: tuple[int, int]) -> tuple[int, int]:
    return PAD + cell[0] * (BOX_W + GAP_X), PAD + cell[1] * (BOX_H + GAP_Y)


def _edge(place: Mapping[str, tuple[int, int]], a: str, b: str) -> str:
    """The path of an arrow from the box of `a` to that of `b`."""
    (ax, ay), (bx, by) = _corner(place[a]), _corner(place[b])
    if place[a][1] == place[b][1] and place[b][0] == place[a][0] + 1:
        y = ay + BOX_H / 2
        path = f"M{ax + BOX_W} {y} L{bx - 2} {y}"
    elif place[a][1] == place[b][1]:  # over the boxes between
        lift = ay + BOX_H + GAP_Y * 0.35
        path = (
            f"M{ax + BOX_W / 2} {ay + BOX_H} C{ax + BOX_W / 2} {lift + 8} "
            f"{bx + BOX_W / 2} {lift + 8} {bx + BOX_W / 2} {by + BOX_H + 2}"
        )
    else:
        x0, y0, x1, y1 = ax + BOX_W / 2, ay + BOX_H, bx + BOX_W / 2, by - 2
        middle = (y0 + y1) / 2
        side = -1 if x1 < x0 else 1
        turn = min(12.0, abs(x1 - x0) / 2)
        path = f"M{x0} {y0} L{x0} {middle - turn if turn else y1}"
        if turn:
            path += (
                f" Q{x0} {middle} {x0 + side * turn} {middle} L{x1 - side * turn} {middle} "
                f"Q{x1} {middle} {x1} {middle + turn} L{x1} {y1}"
            )
    return path
