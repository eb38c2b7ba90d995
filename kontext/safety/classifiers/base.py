"""What an image classifier is, and how its model is run.

open-nsfw and NudeNet run through onnxruntime on batches, nsfwjs through torch. Measured on two
AVX-512 cores, in CPU milliseconds per image: open-nsfw 14 (batch 1 to 4) rising to 21 (batch 32),
NudeNet 12 to 15; full graph optimisation saves a quarter against "extended". So: batches of 4, one
thread per session, and one worker process per core, which needs no synchronisation inside a graph.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kontext.errors import CanaryError

Pixels = NDArray[np.uint8]
Scores = dict[str, NDArray[np.float32]]

_LOG = logging.getLogger("kontext.safety")
BATCH = 4


class ImageClassifier(Protocol):
    """Scores images. Labels are fixed; every score is in [0, 1]."""

    name: str
    version: str
    labels: tuple[str, ...]

    def scores(self, images: Sequence[Pixels]) -> Scores:
        """Label -> float32 [N] for N images, each uint8 [H, W, 3] RGB of any size."""


def onnx_session(path: Path, threads: int) -> Any:
    """An onnxruntime session on the CPU, fully optimised, with `threads` intra-op threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """`threads` intra-op threads of torch within; afterwards as many as before."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def score_images(classifier: ImageClassifier, images: Sequence[Pixels]) -> Scores:
    """Score every image, failing closed: an image that cannot be scored gets NaN in every label.

    So does what is no score: a label that is missing, and a number that is not in [0, 1]. NaN
    passes no limit, so such an image is dropped with outcome `error`.
    """
    try:
        return _in_range(classifier, classifier.scores(images), len(images))
    except Exception as error:  # noqa: BLE001 - whatever broke, the image must not pass unscored
        if len(images) == 1:
            _LOG.error("%s could not score an image: %s", classifier.name, type(error).__name__)
            return {label: np.full(1, np.nan, np.float32) for label in classifier.labels}
    parts = [score_images(classifier, [image]) for image in images]
    return {label: np.concatenate([part[label] for part in parts]) for label in classifier.labels}


def prove(classifier: ImageClassifier) -> None:
    """Show a classifier three benign pictures that it has to tell apart, in every label.

    Raises:
        CanaryError: it fails, gives what is no score, or one that never changes: it keeps nothing
            out.
    """
    scores = score_images(classifier, _probes())
    for label in classifier.labels:
        values = scores[label]
        if np.isnan(values).any():
            raise CanaryError(f"classifier {classifier.name} is broken: it gives no score {label}")
        if np.ptp(values) == 0:
            raise CanaryError(
                f"classifier {classifier.name} is broken: its score {label} is constant"
            )


def _in_range(classifier: ImageClassifier, scores: Scores, count: int) -> Scores:
    """Every label's float32 [N]; NaN for what is no number in [0, 1]."""
    found = {}
    for label in classifier.labels:
        values = np.asarray(scores.get(label, np.full(count, np.nan)), np.float32)
        if values.shape != (count,):
            raise ValueError(f"{label}: {values.shape} for {count} images")
        found[label] = np.where((values >= 0) & (values <= 1), values, np.float32(np.nan))
    return found


@lru_cache(maxsize=1)
def _probes() -> tuple[Pixels, ...]:
    """Plain grey, a gradient and plasma."""
    from kontext.safety.canaries import BANK_SIZE, canary_image  # a recipe has no Pillow

    ramp = np.linspace(0, 255, 96).astype(np.uint8)
    gradient = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], np.uint8(90)), -1)
    return (
        np.full((96, 96, 3), 128, np.uint8),
        np.ascontiguousarray(gradient),
        np.asarray(canary_image(BANK_SIZE)),
    )
