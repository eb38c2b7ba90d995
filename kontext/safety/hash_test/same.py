"""Whether two files show one picture: the witness for what counts as a false match.

PDQ knows the lowest frequencies of a picture. This looks at its smallest details, which pictures
that agree in those by chance do not share: corners (ORB, Rublee et al. 2011) that look alike must
lie at the same places. A filter, other tones or false colors leave them where they are.
"""

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

CHANGES_RESULTS = False  # measures; a stage never asks it

Gray = NDArray[np.uint8]
Details = tuple[NDArray[np.float64], Gray | None]  # places [N, 2], 0 to 1; words [N, 32]
_SIDE = 384  # pixels of the shorter side at which details are looked for
_CORNERS, _ALIKE = 1500, 64  # corners of a picture; bits of 256 between two that look alike
_OFF = 0.01  # of a side: as far as they may lie apart
_FEWEST, _SHARE = 12, 0.15  # pairs of corners that lie together; of all that look alike
_FLAT = 0.03  # mean difference of gray, 0 to 1, below which no details are needed


def same_picture(one: Image.Image, other: Image.Image) -> bool:
    """Whether two RGB pictures are one, in any of 8 orientations."""
    first = _gray(one)
    known = _details(first)
    return any(
        _little_apart(first, turned) or _agree(known, _details(turned))
        for turned in _orientations(_gray(other))
    )


def _gray(picture: Image.Image) -> Gray:
    factor = _SIDE / min(picture.size)
    width, height = (max(1, round(side * factor)) for side in picture.size)
    return np.asarray(picture.convert("L").resize((width, height), Image.Resampling.LANCZOS))


def _orientations(gray: Gray) -> Iterator[Gray]:
    for side in (gray, gray[:, ::-1]):
        for turns in range(4):
            yield np.ascontiguousarray(np.rot90(side, turns))


def _little_apart(one: Gray, other: Gray) -> bool:
    a, b = (cv2.resize(side, (64, 64), interpolation=cv2.INTER_AREA) for side in (one, other))
    return float(np.abs(a.astype(np.float32) - b).mean()) / 255 < _FLAT


def _details(gray: Gray) -> Details:
    points, words = cv2.ORB.create(_CORNERS, fastThreshold=8).detectAndCompute(gray, None)
    places = np.array([point.pt for point in points]).reshape(-1, 2)
    return places / gray.shape[1::-1], None if words is None else np.asarray(words, np.uint8)


def _agree(one: Details, other: Details) -> bool:
    (places, words), (places2, words2) = one, other
    if words is None or words2 is None:
        return False
    found = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(words, words2)
    alike = [(pair.queryIdx, pair.trainIdx) for pair in found if pair.distance <= _ALIKE]
    if not alike:
        return False
    mine, theirs = np.array(alike).T
    apart = np.abs(places[mine] - places2[theirs]).max(axis=1)
    together = int((apart <= _OFF).sum())
    return together >= max(_FEWEST, _SHARE * len(alike))
