"""Is it still the same person: cosine of face embeddings, and in how many results a face is found.

AuraFace (Apache-2.0) by insightface, from the folder `auraface`. A cosine alone would reward an
editor that loses the face where it is hard: read it beside the coverage.
"""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kontext.errors import MetricUnavailable
from kontext.evaluate.measures.base import Made, Measure, Opened, cosine, package
from kontext.evaluate.measures.weights import named, weights_folder
from kontext.evaluate.metrics.base import Card
from kontext.evaluate.pixels import Picture

CHANGES_RESULTS = False  # for users; no stage runs a public bench

_GET = "hf download fal/AuraFace-v1 --local-dir …/auraface"
_SIDE = 640  # pixels that the detector sees


class Face(NamedTuple):
    """A face of a picture: its area in pixels, and its embedding [D]."""

    area: float
    vector: NDArray[np.float32]


Find = Callable[[Picture], Sequence[Face]]


@cache
def _loaded(folder: Path) -> Find:
    """Finds faces with insightface. Raises MetricUnavailable."""
    from insightface.app import FaceAnalysis

    try:
        app: Any = FaceAnalysis(name=str(folder), allowed_modules=["detection", "recognition"])
        app.prepare(ctx_id=0, det_size=(_SIDE, _SIDE))
    except Exception as error:  # onnxruntime's errors have no other base
        said = " ".join(str(error).split())[:160] or type(error).__name__
        raise MetricUnavailable(f"{folder} has no faces' models for insightface: {said}") from error

    def find(picture: Picture) -> list[Face]:
        found = app.get(np.ascontiguousarray(picture[..., ::-1]))
        return [Face(_area(one.bbox), np.asarray(one.embedding, np.float32)) for one in found]

    return find


def _area(box: Any) -> float:
    left, top, right, bottom = (float(side) for side in box[:4])
    return (right - left) * (bottom - top)


def same_person(find: Find, made: Made) -> float | None:
    """Cosine of the input's largest face and the nearest face of the result.

    None where one has no face: how often is `found_again`'s figure.
    """
    before, after = _faces(find, made)
    if not before or not after:
        return None
    largest = max(before, key=lambda face: face.area)
    found = [cosine(largest.vector, face.vector) for face in after]
    return max((value for value in found if value is not None), default=None)


def found_again(find: Find, made: Made) -> float | None:
    """1 where the result has a face, 0 where it has none; None where the input has none."""
    before, after = _faces(find, made)
    return float(bool(after)) if before else None


def _faces(find: Find, made: Made) -> tuple[Sequence[Face], Sequence[Face]]:
    context = made.context
    if context is None:
        return (), ()
    before = made.once("faces", "context", lambda: find(context))
    return before, made.once("faces", "output", lambda: find(made.output))


def _open(value: Callable[[Find, Made], float | None]) -> Opened:
    name = package("insightface", "'insightface>=2'")
    folder = weights_folder("auraface", _GET)
    find = _loaded(folder)
    card = Card(
        name,
        named(folder),
        resize=f"the picture into {_SIDE} x {_SIDE} to find faces",
        crop="112 x 112 around five points of the face",
        range="-1 to 1, BGR",
        dtype="float32",
    )
    return Opened(lambda made: value(find, made), card)


MEASURES = {
    "identity": Measure(
        "identity",
        "",
        "higher",
        "cosine of the input's largest face and the nearest face of the result, of items that have "
        "both (see the faces found)",
        lambda: _open(same_person),
    ),
    "faces_found": Measure(
        "faces found",
        "%",
        "higher",
        "share of items with a face in the input that have one in the result",
        lambda: _open(found_again),
    ),
}
