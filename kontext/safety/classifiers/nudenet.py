"""NudeNet: exposed and covered parts of the body, and faces."""

import importlib.util
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from kontext.errors import GateError
from kontext.safety.classifiers.base import BATCH, Pixels, Scores, onnx_session
from schemas.risks import Risk

NAME = "nudenet"
RISKS = (
    Risk(
        "nudity",
        classifier=NAME,
        score="exposed-nudity",
        label="nudity",
        refusal="the image seems to show nudity",
        always_varies=False,  # drawings may show no body at all
    ),
)
LABELS = (
    "FEMALE_GENITALIA_COVERED",
    "FACE_FEMALE",
    "BUTTOCKS_EXPOSED",
    "FEMALE_BREAST_EXPOSED",
    "FEMALE_GENITALIA_EXPOSED",
    "MALE_BREAST_EXPOSED",
    "ANUS_EXPOSED",
    "FEET_EXPOSED",
    "BELLY_COVERED",
    "FEET_COVERED",
    "ARMPITS_COVERED",
    "ARMPITS_EXPOSED",
    "FACE_MALE",
    "BELLY_EXPOSED",
    "MALE_GENITALIA_EXPOSED",
    "ANUS_COVERED",
    "FEMALE_BREAST_COVERED",
    "BUTTOCKS_COVERED",
)


class NudeNet:
    """NudeNet 320n (AGPL-3.0, extra `[nudenet]`): the strongest detection of each body-part class.

    A class's score is its maximum over all anchors. The package's own detector also suppresses a
    class where a stronger box of another class overlaps; for safety that only hides scores.
    """

    name = NAME
    labels: tuple[str, ...] = LABELS
    _SIDE = 320

    def __init__(self, threads: int = 1) -> None:
        spec = importlib.util.find_spec("nudenet")
        if spec is None or spec.origin is None:
            raise GateError(
                "classifier nudenet is not installed: pip install 'kontext[nudenet]' (AGPL-3.0), "
                "or run without it by screen.policy=no-nudenet"
            )
        self.version = f"nudenet-320n@{version('nudenet')}"
        self._session = onnx_session(Path(spec.origin).with_name("320n.onnx"), threads)

    def scores(self, images: Sequence[Pixels]) -> Scores:
        """See `ImageClassifier`."""
        import cv2

        found = np.empty((len(images), len(LABELS)), np.float32)
        size = (self._SIDE, self._SIDE)
        for start in range(0, len(images), BATCH):
            squares = [_pad_square(image) for image in images[start : start + BATCH]]
            # the model is fed BGR: the package swaps the channels of a BGR file twice
            batch = cv2.dnn.blobFromImages(squares, 1 / 255, size, (0, 0, 0), swapRB=True)
            (output,) = self._session.run(None, {"images": batch})  # [N, 4 + classes, anchors]
            found[start : start + len(squares)] = output[:, 4:].max(2)
        return {label: found[:, index].copy() for index, label in enumerate(LABELS)}


def _pad_square(image: Pixels) -> Pixels:
    """Pad right and below with black, as NudeNet does."""
    height, width = image.shape[:2]
    side = max(height, width)
    return np.pad(image, ((0, side - height), (0, side - width), (0, 0)))


load = NudeNet
