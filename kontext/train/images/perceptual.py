"""The perceptual backbone: the frozen network in which reconstructions are compared.

`efficientnet-lite0` ships with a package. `vgg16` needs torchvision's weights file, which nothing
here downloads; its distance is LPIPS's form with every channel weighing the same, since the learned
weights are not in that file. A number says which backbone it is of: they cannot be compared.
"""

import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kontext.errors import RecipeError, WeightsError
from kontext.models.features.efficientnet import FeatureNet, load_features, perceptual_distance
from kontext.models.precision import autocast
from schemas.paths import expanded
from schemas.sections.training import AutoencoderConfig

# Simonyan & Zisserman 2015 (arXiv 1409.1556), configuration D; a map is taken at each stage's end
_VGG = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # torchvision's
NAMES = {"efficientnet-lite0": "EfficientNet-Lite0", "vgg16": "VGG-16, unit weights"}


class VggFeatures(nn.Module):
    """VGG-16's convolutions under torchvision's names (`features.N`)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self._ends: list[int] = []
        width = 3
        for stage in _VGG:
            if layers:
                layers.append(nn.MaxPool2d(2))
            for out in stage:
                layers += [nn.Conv2d(width, out, 3, padding=1), nn.ReLU()]
                width = out
            self._ends.append(len(layers))
        self.features = nn.Sequential(*layers)
        self.digest = "random"  # SHA-256 prefix of the weights file once loaded

    def maps(self, images: Tensor, levels: tuple[int, ...] = (0, 1, 2, 3, 4)) -> list[Tensor]:
        """Level i is [B, C, H / 2^i, W / 2^i]; nothing deeper than the last one is computed."""
        mean, std = (images.new_tensor(v).view(3, 1, 1) for v in (_MEAN, _STD))
        x, found, start = (images - mean) / std, [], 0
        for level, end in enumerate(self._ends[: max(levels) + 1]):
            x = self.features[start:end](x)
            start = end
            if level in levels:
                found.append(x)
        return found

    def pool(self, deepest: Tensor) -> Tensor:
        """Mean over positions."""
        return deepest.float().mean((2, 3))


Backbone = FeatureNet | VggFeatures  # frozen networks whose maps two images are compared in


def load_backbone(config: AutoencoderConfig, device: torch.device) -> Backbone:
    """The backbone that the recipe names, frozen.

    Raises:
        RecipeError: `vgg16` without a file.
        WeightsError: the file does not fit, or the package of the other one is missing.
    """
    if config.perceptual == "efficientnet-lite0":
        return load_features(device=device)
    path = expanded(config.perceptual_file)
    if not path.is_file():
        raise RecipeError(
            "autoencoder.perceptual=vgg16 needs perceptual_file: torchvision's vgg16 weights, "
            f"and '{config.perceptual_file}' is no file"
        )
    return load_vgg(path).to(device).requires_grad_(False).eval()


def feature_distances(
    features: Backbone, real: Tensor, fake: Tensor, levels: tuple[int, ...] = (0, 1, 2, 3, 4)
) -> tuple[Tensor, Tensor]:
    """Mean distances of feature maps and of pooled embeddings, at the images' own resolution.

    Args:
        real, fake: [B, 3, H, W] in -1..1; only `fake` carries a gradient.
    """
    with autocast(real.device):
        with torch.no_grad():
            wanted = features.maps((real + 1) / 2, levels=levels)
            target = features.pool(wanted[-1])
        found = features.maps((fake + 1) / 2, levels=levels)
        pooled = features.pool(found[-1])
    cosine = F.cosine_similarity(pooled.float(), target.float(), dim=1)
    return perceptual_distance(found, wanted).mean(), (1 - cosine).mean()


def unloaded_backbone(config: AutoencoderConfig) -> Backbone:
    """The same network without its weights."""
    return FeatureNet() if config.perceptual == "efficientnet-lite0" else VggFeatures()


def file_digest(config: AutoencoderConfig) -> str:
    """SHA-256 of the backbone's file; empty where it ships with a package."""
    path = expanded(config.perceptual_file)
    if config.perceptual == "efficientnet-lite0" or not path.is_file():
        return ""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_vgg(path: Path) -> VggFeatures:
    """VGG-16 with torchvision's weights. Raises WeightsError."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    net = VggFeatures()
    own = {key: value for key, value in state.items() if key.startswith("features.")}
    try:
        net.load_state_dict(own)
    except RuntimeError as error:
        line = " ".join(str(error).split())[:200]
        raise WeightsError(f"{path.name} is not torchvision's vgg16: {line}") from error
    net.digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return net
