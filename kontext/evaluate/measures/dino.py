"""Cosines in DINO's or DINOv2's class token, by transformers, from the folder `dino`.

Such as the hub's `facebook/dino-vits16`, of which MagicBrush's figures are, or
`facebook/dinov2-base`. Figures of two models do not compare; the card says which it is.
"""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kontext.errors import MetricUnavailable, WeightsError
from kontext.evaluate.measures.base import Made, Measure, Opened, cosine, package
from kontext.evaluate.measures.weights import named, weights_folder
from kontext.evaluate.metrics.base import Card
from kontext.evaluate.pixels import Picture
from kontext.models.text.pretrained import load_module

CHANGES_RESULTS = False  # for users; no stage runs a public bench

_KINDS = ("ViTModel", "Dinov2Model", "Dinov2WithRegistersModel", "DINOv3ViTModel")
_GET = "hf download facebook/dino-vits16 --local-dir …/dino"
_SIDE, _CROP = 256, 224  # of DINO's own evaluation
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Embed = Callable[[Picture], NDArray[np.float32]]


@cache
def _loaded(folder: Path) -> tuple[Embed, Card]:
    """Raises MetricUnavailable: not there, damaged, or a tensor of it is missing."""
    from PIL import Image
    from torchvision import transforms

    kind = _kind(folder)
    try:
        model: Any = load_module(kind, folder, torch.float32).eval()
    except WeightsError as error:
        raise MetricUnavailable(str(error)) from error
    how = transforms.InterpolationMode.BICUBIC
    prepare = transforms.Compose(
        [
            transforms.Resize(_SIDE, how),
            transforms.CenterCrop(_CROP),
            transforms.ToTensor(),
            transforms.Normalize(_MEAN, _STD),
        ]
    )

    @torch.no_grad()
    def embed(picture: Picture) -> NDArray[np.float32]:
        pixels = prepare(Image.fromarray(picture))[None]
        found: NDArray[np.float32] = model(pixel_values=pixels).last_hidden_state[0, 0].numpy()
        return found

    card = Card(
        package("transformers", "'kontext[reference]'"),
        f"{kind} {named(folder)}",
        resize=f"shorter side to {_SIDE}, bicubic (Pillow)",
        crop=f"middle {_CROP}",
        range=f"mean {_MEAN}, standard deviation {_STD}",
        dtype="float32",
    )
    return embed, card


def _kind(folder: Path) -> str:
    try:
        named_kinds = json.loads((folder / "config.json").read_text())["architectures"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MetricUnavailable(f"{folder} has no config.json of transformers") from error
    found = [kind for kind in named_kinds if kind in _KINDS]
    if not found:
        raise MetricUnavailable(f"{folder} is none of {', '.join(_KINDS)}: {named_kinds}")
    return str(found[0])


def _open(other: str) -> Opened:
    package("transformers", "'kontext[reference]'")
    embed, card = _loaded(weights_folder("dino", _GET))

    def value(made: Made) -> float | None:
        picture = getattr(made, other)
        if picture is None:
            return None
        own = made.once("dino", "output", lambda: embed(made.output))
        return cosine(own, made.once("dino", other, lambda: embed(picture)))

    return Opened(value, card)


MEASURES = {
    "dino": Measure(
        "DINO", "", "higher", "cosine of result and target in DINO", lambda: _open("target")
    ),
    "dino_input": Measure(
        "DINO to input",
        "",
        "",
        "cosine of result and input in DINO: 1 where nothing was done",
        lambda: _open("context"),
    ),
}
