"""Image-text scores of a small CLIP of our own.

It is open_clip's contrastive recipe with frozen towers: EfficientNet-Lite0 features on the image
side, MiniLM on the text side, and one trained MLP head on each. It knows the domain it was trained
on and no other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kontext.errors import WeightsError
from kontext.models.features.efficientnet import EMBEDDING_DIM, FeatureNet
from kontext.models.precision import autocast
from kontext.models.text.encoders import TextEncoder

if TYPE_CHECKING:
    from kontext.store.artifacts.artifact_store import Artifact

Pixels = NDArray[np.uint8]
Vectors = NDArray[np.float32]

WEIGHTS_FILE, CONFIG_FILE = "clip.safetensors", "clip.json"
_IMAGE_SIDE = 128
_TEXT_LENGTH = 32
_BATCH = 64


@dataclass(frozen=True)
class ClipShape:
    """Geometry of the two heads."""

    image_dim: int = EMBEDDING_DIM
    text_dim: int = 384
    hidden: int = 512
    embed_dim: int = 256


class SmallClip(nn.Module):
    """Two heads over frozen features, with open_clip's interface and losses."""

    def __init__(self, shape: ClipShape = ClipShape()) -> None:
        super().__init__()
        self.shape = shape
        self.visual = _head(shape.image_dim, shape.hidden, shape.embed_dim)
        self.text = _head(shape.text_dim, shape.hidden, shape.embed_dim)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def encode_image(self, features: Tensor) -> Tensor:
        """Image features [B, image_dim] -> normalised [B, embed_dim]."""
        return F.normalize(self.visual(features), dim=-1)

    def encode_text(self, pooled: Tensor) -> Tensor:
        """Pooled text [B, text_dim] -> normalised [B, embed_dim]."""
        return F.normalize(self.text(pooled), dim=-1)

    def forward(self, features: Tensor, pooled: Tensor) -> dict[str, Tensor]:
        """What open_clip's losses take: both normalised embeddings and the scale."""
        return {
            "image_features": self.encode_image(features),
            "text_features": self.encode_text(pooled),
            "logit_scale": self.logit_scale.exp(),
        }


def _head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(inputs),
        nn.Linear(inputs, hidden),
        nn.GELU(),
        nn.Dropout(0.2),
        nn.Linear(hidden, outputs),
    )


class SmallScorer:
    """Embeds images and texts into one space, by a SmallClip and its two frozen towers."""

    def __init__(self, model: SmallClip, features: FeatureNet, text: TextEncoder) -> None:
        self.model = model.eval().requires_grad_(False)
        self.features, self.text = features, text

    def image_embeddings(self, images: Pixels) -> Vectors:
        """uint8 [N, H, W, 3] -> L2-normalised float32 [N, D]."""
        return self.embed_features(image_features(self.features, images))

    @torch.no_grad()
    def embed_features(self, features: Tensor) -> Vectors:
        """Image features [N, 1280] of `image_features` -> normalised embeddings [N, D]."""
        return _numpy(self.model.encode_image(features))

    def text_embeddings(self, texts: Sequence[str]) -> Vectors:
        """N texts -> L2-normalised float32 [N, D]."""
        return self.embed_pooled(text_features(self.text, texts))

    @torch.no_grad()
    def embed_pooled(self, pooled: Tensor) -> Vectors:
        """Text features [N, pooled_dim] of `text_features` -> normalised embeddings [N, D]."""
        return _numpy(self.model.encode_text(pooled))

    def save(self, folder: Path) -> tuple[Path, Path]:
        """Write clip.safetensors and clip.json into `folder` and return their paths."""
        state = {name: value.contiguous() for name, value in self.model.state_dict().items()}
        config = {
            "format": "kontext-small-clip-1",
            "shape": asdict(self.model.shape),
            "image_tower": self.features.digest,
            "text_tower": self.text.digest,
        }
        save_file(state, folder / WEIGHTS_FILE)
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
        return folder / WEIGHTS_FILE, folder / CONFIG_FILE


@torch.no_grad()
def image_features(net: FeatureNet, images: Pixels) -> Tensor:
    """The image tower: uint8 [N, H, W, 3] -> float32 [N, 1280]."""
    device = next(net.parameters()).device
    found = []
    for start in range(0, len(images), _BATCH):
        part = np.ascontiguousarray(images[start : start + _BATCH])
        pixels = torch.from_numpy(part).to(device).permute(0, 3, 1, 2).float() / 255
        with autocast(device):
            found.append(net.pooled(pixels, _IMAGE_SIDE).float())
    return torch.cat(found) if found else torch.zeros(0, EMBEDDING_DIM, device=device)


def text_features(encoder: TextEncoder, texts: Sequence[str]) -> Tensor:
    """The text tower: N texts -> float32 [N, pooled_dim]."""
    found = [
        encoder.encode(texts[start : start + 4096], _TEXT_LENGTH)[2]
        for start in range(0, len(texts), 4096)  # bounds the token states in memory
    ]
    return torch.cat(found) if found else torch.zeros(0, encoder.pooled_dim)


def saved_towers(artifact: Artifact) -> tuple[str, str]:
    """Digests of the image and the text tower of the small CLIP that `SmallScorer.save` wrote."""
    config = artifact.json(CONFIG_FILE)
    return config["image_tower"], config["text_tower"]


def load_scorer(
    artifact: Artifact, features: FeatureNet, text: TextEncoder, device: torch.device | str = "cpu"
) -> SmallScorer:
    """The small CLIP of an artifact that `SmallScorer.save` wrote, over its frozen towers.

    Raises:
        WeightsError: nothing there, or made for other towers than those given.
    """
    try:
        config = json.loads(artifact.path(CONFIG_FILE).read_text())
        model = SmallClip(ClipShape(**config["shape"]))
        model.load_state_dict(load_file(artifact.path(WEIGHTS_FILE)))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{artifact} holds no small CLIP: {error}") from error
    for tower, digest in (("image_tower", features.digest), ("text_tower", text.digest)):
        if config[tower] != digest:
            raise WeightsError(
                f"{artifact}: its {tower} is {config[tower]}, the one given is {digest}"
            )
    return SmallScorer(model.to(device), features, text)


class PairClip(NamedTuple):
    """CLIP scores of N pairs, float32 [N] each, cosines."""

    clip_t: Vectors  # target image and target caption
    clip_i: Vectors  # context and target image
    clip_dir: Vectors  # direction of the images and of the captions; 0 where one does not move


def pair_scores(
    context: Vectors, target: Vectors, context_text: Vectors, target_text: Vectors
) -> PairClip:
    """Scores from normalised embeddings [N, D] of both images and both captions."""
    return PairClip(
        (target * target_text).sum(1),
        (context * target).sum(1),
        _cosine(target - context, target_text - context_text),
    )


def _cosine(a: Vectors, b: Vectors) -> Vectors:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    dots = (a * b).sum(1)
    found: Vectors = np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 1e-8)
    return found


def _numpy(x: Tensor) -> Vectors:
    found: Vectors = x.float().cpu().numpy()
    return found
