"""Distances of sets: results of a run and the pictures they are compared with, as distributions.

KID and FID in Inception's features (torch-fidelity, whose network is the one of the papers), from
the folder `inception`. FID of few pictures is mostly its own bias, and KID of very few is noise:
below `least` pictures there is no figure but a reason.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kontext.errors import MetricUnavailable
from kontext.evaluate.measures.base import package
from kontext.evaluate.measures.weights import named, weights_file
from kontext.evaluate.metrics.base import Card
from kontext.evaluate.metrics.distribution import Features, kid_interval
from kontext.evaluate.pixels import Picture
from kontext.evaluate.statistics import Interval
from kontext.train.images.reconstruction import frechet_distance

CHANGES_RESULTS = False  # for users; no stage runs a public bench

_GET = "weights-inception-2015-12-05-6726825d.pth of torch-fidelity in it"
Embed = Callable[[Picture], NDArray[np.float32]]


@cache
def _network(path: Path) -> Any:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    try:
        # torch-fidelity unpickles whatever a file says: this one refuses code
        torch.load(path, map_location="cpu", weights_only=True)
        net: Any = FeatureExtractorInceptionV3("own", ["2048"], str(path))
    except Exception as error:  # torch.load raises what it likes
        said = " ".join(str(error).split())[:120]
        raise MetricUnavailable(f"{path} is not torch-fidelity's Inception: {said}") from error
    return net.eval()


def open_features() -> tuple[Embed, Card]:
    """Inception's 2,048 pooled features of a picture. Raises MetricUnavailable."""
    name = package("torch-fidelity", "'kontext[metrics]'")
    path = weights_file("inception", "*.pth", _GET)
    net = _network(path)

    @torch.no_grad()
    def embed(picture: Picture) -> NDArray[np.float32]:
        found: NDArray[np.float32] = net(torch.from_numpy(picture).permute(2, 0, 1)[None])[0][0]
        return np.asarray(found, np.float32)

    card = Card(
        name,
        named(path),
        resize="to 299 x 299, bilinear as TensorFlow 1 does it",
        range="(x - 128) / 128",
        dtype="float32, distances float64",
    )
    return embed, card


@dataclass(frozen=True)
class SetMeasure:
    """A distance of two sets of features [N, D] of the same items, of `clusters` [N]."""

    title: str
    definition: str
    least: int
    value: Callable[[Features, Features, Sequence[str]], Interval]

    def measure(self, real: Features, made: Features, clusters: Sequence[str]) -> Interval:
        """Raises MetricUnavailable where there are too few pictures."""
        self.check(len(made))
        return self.value(real, made, clusters)

    def check(self, count: int) -> None:
        """The sample-size rule. Raises MetricUnavailable."""
        if count < self.least:
            raise MetricUnavailable(
                f"it takes {self.least:,} pictures or more to say anything; these are {count:,}"
            )


def _frechet(real: Features, made: Features, clusters: Sequence[str]) -> Interval:
    value = frechet_distance(torch.from_numpy(real), torch.from_numpy(made))
    nan = float("nan")
    return Interval(value, nan, nan, len(made), len(set(clusters)), "undefined")


SETS = {
    "kid": SetMeasure(
        "KID",
        "squared maximum mean discrepancy of the cubic kernel, unbiased, over all pictures",
        50,
        kid_interval,
    ),
    "fid": SetMeasure(
        "FID",
        "Fréchet distance of Gaussians; biased upwards by few pictures, so without an interval",
        2048,
        _frechet,
    ),
}
