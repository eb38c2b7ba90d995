"""Style distance: how far the Gram matrices of two pictures' feature maps are apart.

Gram matrices (Gatys et al. 2015, arXiv 1508.06576) say which features occur together and not where,
so a result with the reference's style and other content is near. `style` is in EfficientNet-Lite0,
whose weights are in the installation; `style_vgg` in VGG-16 as in the paper, from the folder
`vgg16`. The two do not compare.
"""

from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from kontext.errors import MetricUnavailable, WeightsError
from kontext.evaluate.measures.base import Made, Measure, Opened
from kontext.evaluate.measures.lpips import unit
from kontext.evaluate.measures.weights import named, weights_file
from kontext.evaluate.metrics.base import Card
from kontext.evaluate.pixels import Picture
from kontext.models.features.efficientnet import load_features
from kontext.train.images.perceptual import Backbone, load_vgg

CHANGES_RESULTS = False  # for users; no stage runs a public bench

_LEVELS = {"EfficientNet-Lite0": (0, 1, 2, 3), "VGG-16": (0, 1, 2, 3, 4)}
_AREA = 256 * 256  # pixels that both pictures are brought to: textures are compared at one scale
_GET = "torchvision's vgg16-397923af.pth in it"


def gram(maps: Tensor) -> Tensor:
    """Mean products [C, C] of the channels of maps [1, C, H, W], over places."""
    flat = maps[0].flatten(1).double()
    return flat @ flat.T / flat.shape[1]


def gram_distance(a: list[Tensor], b: list[Tensor]) -> float:
    """Mean over levels of |G - G'|² ÷ (|G|² + |G'|²), by Frobenius norms: 0 where equal, to 1."""
    found = []
    for one, other in zip(a, b, strict=True):
        x, y = gram(one), gram(other)
        both = float(x.square().sum() + y.square().sum())
        found.append(float((x - y).square().sum()) / both if both else 0.0)
    return sum(found) / len(found)


def scaled(picture: Picture) -> Tensor:
    """At the common area, shape kept, sides of 32 pixels' multiples: float32 [1, 3, H, W]."""
    height, width = picture.shape[:2]
    scale = (_AREA / (height * width)) ** 0.5
    size = (max(32, 32 * round(height * scale / 32)), max(32, 32 * round(width * scale / 32)))
    found = F.interpolate(unit(picture), size, mode="bicubic", align_corners=False, antialias=True)
    return found.clamp(0, 1)


@cache
def _network(name: str) -> tuple[Backbone, str]:
    """A network, and its weights' name. Raises MetricUnavailable."""
    try:
        if name == "VGG-16":
            path = weights_file("vgg16", "*.*", _GET)
            return load_vgg(path).requires_grad_(False).eval(), f"{name} {named(path)}"
        net = load_features()
        return net, f"{name} ({net.digest})"
    except WeightsError as error:
        raise MetricUnavailable(str(error)) from error


def _open(name: str, other: str) -> Opened:
    net, weights = _network(name)

    @torch.no_grad()
    def maps(picture: Picture) -> list[Tensor]:
        return net.maps(scaled(picture), levels=_LEVELS[name])

    def value(made: Made) -> float | None:
        picture = getattr(made, other)
        if picture is None:
            return None
        return gram_distance(maps(made.output), maps(picture))

    card = Card(
        f"torch {torch.__version__.partition('+')[0]}",
        weights,
        resize=f"both to {_AREA:,} pixels, sides of 32 pixels' multiples, bicubic",
        dtype="float32, Gram matrices float64",
    )
    return Opened(value, card)


def _measure(name: str, other: str, title: str, what: str) -> Measure:
    said = f"distance of Gram matrices to the {what} in {name}, 0 to 1"
    return Measure(title, "", "lower", said, partial(_open, name, other))


MEASURES = {
    "style": _measure("EfficientNet-Lite0", "context", "style", "reference (the input)"),
    "style_target": _measure("EfficientNet-Lite0", "target", "style to target", "target"),
    "style_vgg": _measure("VGG-16", "context", "style, VGG", "reference (the input)"),
}
