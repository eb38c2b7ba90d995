"""LPIPS (Zhang et al. 2018, arXiv 1801.03924) by torchmetrics, whose wheel has the linear heads.

The trunk's weights are torchvision's, from the folder `lpips`, as torch.hub keeps them. AlexNet's
are those of the figures in papers; figures of another trunk are other figures, and the card says
which it is.
"""

from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from kontext.errors import MetricUnavailable
from kontext.evaluate.measures.base import Made, Measure, Opened, package, resized
from kontext.evaluate.measures.weights import named, weights_file
from kontext.evaluate.metrics.base import Card
from kontext.evaluate.pixels import Picture

CHANGES_RESULTS = False  # for users; no stage runs a public bench

# by the names of torchvision's files: of another one it would download its own
_TRUNKS: dict[str, Literal["alex", "vgg", "squeeze"]] = {
    "alexnet-owt-7be5be79.pth": "alex",
    "vgg16-397923af.pth": "vgg",
    "squeezenet1_1-b8a52dc0.pth": "squeeze",
}
_LEAST = 32  # pixels of the shorter side: a smaller picture is nothing to the deepest layer
_GET = (
    "checkpoints/alexnet-owt-7be5be79.pth in it, from "
    "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
)


@cache
def _net(path: Path) -> Any:
    """torchmetrics' network over the trunk in a file. Raises MetricUnavailable."""
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    name = path.name
    if name not in _TRUNKS:
        raise MetricUnavailable(f"{path.name} is no trunk of LPIPS ({', '.join(_TRUNKS)})")
    before = torch.hub.get_dir()
    torch.hub.set_dir(path.parents[1])
    try:
        net: Any = LearnedPerceptualImagePatchSimilarity(net_type=_TRUNKS[name], normalize=True)
    except (OSError, RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())[:120]
        raise MetricUnavailable(f"{path} is not torchvision's {name}: {said}") from error
    finally:
        torch.hub.set_dir(before)
    return net.eval().requires_grad_(False)


def unit(picture: Picture) -> Tensor:
    """uint8 [H, W, 3] -> float32 [1, 3, H, W] in [0, 1]."""
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255


def _open(to_target: bool) -> Opened:
    name = package("torchmetrics", "'kontext[metrics]'")
    path = weights_file("lpips", "checkpoints/*.pth", _GET)
    net = _net(path)

    @torch.no_grad()
    def value(made: Made) -> float | None:
        other = made.target if to_target else made.context
        if other is None or min(other.shape[:2]) < _LEAST:
            return None
        return float(net(unit(resized(made.output, other)), unit(other)))

    how = "the result to the other picture's size, bicubic (Pillow)"
    return Opened(value, Card(name, named(path), resize=how, range="-1 to 1", dtype="float32"))


MEASURES = {
    "lpips": Measure(
        "LPIPS", "", "lower", "perceptual distance to the target", lambda: _open(True)
    ),
    "lpips_input": Measure(
        "LPIPS to input",
        "",
        "",
        "perceptual distance to the input: 0 where nothing was done",
        lambda: _open(False),
    ),
}
