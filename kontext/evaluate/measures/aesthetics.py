"""How pleasing people would find a picture: LAION's predictor on a CLIP's embedding.

The folder `aesthetic` has one file of linear layers, such as `sac+logos+ava1-l14-linearMSE.pth` of
github.com/christophschuhmann/improved-aesthetic-predictor. It was fitted to the embeddings of
OpenAI's ViT-L/14 alone: the folder `clip` has to have that one. It says nothing about the edit, and
likes what is smooth, saturated and in the middle.
"""

from functools import cache
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from kontext.errors import MetricUnavailable
from kontext.evaluate.measures.base import Made, Measure, Opened
from kontext.evaluate.measures.clip import loaded_clip
from kontext.evaluate.measures.weights import named, weights_file
from kontext.evaluate.metrics.base import Card

CHANGES_RESULTS = False  # for users; no stage runs a public bench

_GET = "sac+logos+ava1-l14-linearMSE.pth in it"
Layer = tuple[Tensor, Tensor]  # weight [out, in] and bias [out]


@cache
def linear_layers(path: Path) -> tuple[Layer, ...]:
    """The linear layers of a file, in order; between them is nothing but dropout.

    Raises MetricUnavailable: no such layers, or they do not follow each other to one number.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        keys = [key for key, value in state.items() if key.endswith("weight") and value.ndim == 2]
        found = tuple((state[k].float(), state[k[:-6] + "bias"].float()) for k in keys)
    except Exception as error:  # torch.load raises what it likes
        raise MetricUnavailable(f"{path} has no linear layers: {error!r}"[:200]) from error
    fits = all(a.shape[0] == b.shape[1] for (a, _), (b, _) in pairwise(found))
    if not found or not fits or found[-1][0].shape[0] != 1:
        raise MetricUnavailable(f"{path} is no predictor: its layers do not lead to one number")
    return found


def predicted(layers: tuple[Layer, ...], vector: Tensor) -> float:
    """Of an embedding [D], which is normalised first."""
    x = torch.nn.functional.normalize(vector.float(), dim=0)
    for weight, bias in layers:
        x = weight @ x + bias
    return float(x)


def _open() -> Opened:
    path = weights_file("aesthetic", "*.pth", _GET)
    layers, clip = linear_layers(path), loaded_clip()
    wanted = layers[0][0].shape[1]
    if clip.width != wanted:
        raise MetricUnavailable(
            f"{path.name} is for embeddings of {wanted} numbers, those of 'clip' have "
            f"{clip.width}: it needs OpenAI's ViT-L/14"
        )

    def value(made: Made) -> float | None:
        return predicted(layers, torch.from_numpy(clip.image(made, "output", made.output)))

    card = Card(
        clip.card.version,
        f"{named(path)} on {clip.card.weights}",
        clip.card.resize,
        clip.card.crop,
        clip.card.range,
        clip.card.dtype,
    )
    return Opened(value, card)


MEASURES = {
    "aesthetic": Measure(
        "aesthetics", "", "higher", "predicted opinion of people, about 1 to 10", _open
    )
}
