"""Image-text scores behind one protocol: a small CLIP of our own, or any open_clip weights.

The small one is open_clip's contrastive recipe with frozen towers: EfficientNet-Lite0 features on
the image side, MiniLM on the text side, and one trained MLP head on each. It knows the domain it
was trained on and no other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kontext.errors import WeightsError
from kontext.models.features.efficientnet import EMBEDDING_DIM, FeatureNet, load_features
from kontext.models.precision import autocast
from kontext.models.text.encoders import TextEncoder, load_text_encoder

Pixels = NDArray[np.uint8]
Vectors = NDArray[np.float32]

WEIGHTS_FILE, CONFIG_FILE = "clip.safetensors", "clip.json"
_IMAGE_SIDE = 128
_TEXT_LENGTH = 32
_BATCH = 64


class ClipScorer(Protocol):
    """Embeds images and texts into one space; rows are L2-normalised float32 [N, D]."""

    name: str

    def image_embeddings(self, images: Pixels) -> Vectors:
        """uint8 [N, H, W, 3] -> [N, D]."""

    def text_embeddings(self, texts: Sequence[str]) -> Vectors:
        """N texts -> [N, D]."""


class Files(Protocol):
    """Anything that has files by name, such as a stage's artifact."""

    def path(self, name: str) -> Path:
        """A local path of the file called `name`."""


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

    def encode_image(self, features: Tensor, normalize: bool = False) -> Tensor:
        """Image features [B, image_dim] -> [B, embed_dim]."""
        out: Tensor = self.visual(features)
        return F.normalize(out, dim=-1) if normalize else out

    def encode_text(self, pooled: Tensor, normalize: bool = False) -> Tensor:
        """Pooled text [B, text_dim] -> [B, embed_dim]."""
        out: Tensor = self.text(pooled)
        return F.normalize(out, dim=-1) if normalize else out

    def forward(self, features: Tensor, pooled: Tensor) -> dict[str, Tensor]:
        """What open_clip's losses take: both normalised embeddings and the scale."""
        return {
            "image_features": self.encode_image(features, normalize=True),
            "text_features": self.encode_text(pooled, normalize=True),
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
    """`ClipScorer` over a SmallClip and its two frozen towers."""

    def __init__(self, model: SmallClip, features: FeatureNet, text: TextEncoder) -> None:
        self.name = "small-clip"
        self.model = model.eval().requires_grad_(False)
        self.features, self.text = features, text

    @torch.no_grad()
    def image_embeddings(self, images: Pixels) -> Vectors:
        """See `ClipScorer`."""
        return self.embed_features(image_features(self.features, images))

    @torch.no_grad()
    def embed_features(self, features: Tensor) -> Vectors:
        """Image features [N, 1280] of `image_features` -> normalised embeddings [N, D]."""
        return _numpy(self.model.encode_image(features, normalize=True))

    @torch.no_grad()
    def text_embeddings(self, texts: Sequence[str]) -> Vectors:
        """See `ClipScorer`."""
        return self.embed_pooled(text_features(self.text, texts))

    @torch.no_grad()
    def embed_pooled(self, pooled: Tensor) -> Vectors:
        """Text features [N, pooled_dim] of `text_features` -> normalised embeddings [N, D]."""
        return _numpy(self.model.encode_text(pooled, normalize=True))

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


class OpenClipScorer:
    """`ClipScorer` over any open_clip model with a local checkpoint (ViT-B-32, SigLIP, …)."""

    def __init__(self, model_name: str, weights: Path, device: torch.device | str = "cpu") -> None:
        """Build `model_name` and load `weights`.

        Raises:
            WeightsError: open_clip missing, unknown model, or a checkpoint that does not fit.
        """
        try:
            import open_clip
        except ImportError as error:
            raise WeightsError("CLIP scores need: pip install open-clip-torch") from error
        if open_clip.get_model_config(model_name) is None:
            raise WeightsError(f"open_clip knows no model '{model_name}'")
        if not weights.is_file():
            raise WeightsError(f"{weights} does not exist")
        self.name = f"open_clip:{model_name}"
        self.device = torch.device(device)
        self._model: Any = open_clip.create_model(model_name, pretrained=None)
        try:
            open_clip.load_checkpoint(self._model, str(weights))
        except (RuntimeError, KeyError, ValueError) as error:
            first = str(error).splitlines()[0]
            raise WeightsError(f"{weights} does not fit {model_name}: {first}") from error
        self._model = self._model.eval().requires_grad_(False).to(self.device)
        self._tokenizer: Any = open_clip.get_tokenizer(model_name)
        config = open_clip.get_model_preprocess_cfg(self._model)
        size = config["size"]
        self._size = (size, size) if isinstance(size, int) else tuple(size)
        self._mean = torch.tensor(config["mean"], device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(config["std"], device=self.device).view(1, 3, 1, 1)

    @torch.no_grad()
    def image_embeddings(self, images: Pixels) -> Vectors:
        """See `ClipScorer`. Images are squashed, not cropped, to the model's size."""
        found = []
        for start in range(0, len(images), _BATCH):
            part = np.ascontiguousarray(images[start : start + _BATCH])
            pixels = torch.from_numpy(part).to(self.device).permute(0, 3, 1, 2).float() / 255
            pixels = F.interpolate(pixels, self._size, mode="bicubic", antialias=True).clamp(0, 1)
            pixels = (pixels - self._mean) / self._std
            found.append(_numpy(self._model.encode_image(pixels, normalize=True)))
        return np.concatenate(found)

    @torch.no_grad()
    def text_embeddings(self, texts: Sequence[str]) -> Vectors:
        """See `ClipScorer`."""
        found = []
        for start in range(0, len(texts), _BATCH):
            tokens = self._tokenizer(list(texts[start : start + _BATCH])).to(self.device)
            found.append(_numpy(self._model.encode_text(tokens, normalize=True)))
        return np.concatenate(found)


def load_scorer(
    spec: str | Path | Files,
    *,
    features: FeatureNet | None = None,
    text: TextEncoder | None = None,
    device: torch.device | str = "cpu",
) -> ClipScorer:
    """A scorer from a folder or artifact with a small CLIP, or `open_clip:MODEL:/weights`.

    Args:
        spec: a folder or artifact with `clip.safetensors`, or `open_clip:MODEL:/weights`.
        features, text: the small CLIP's frozen towers, where the caller has them already.

    Raises:
        WeightsError: nothing there, or made for other towers than those given.
    """
    if isinstance(spec, str) and spec.startswith("open_clip:"):
        _, model_name, path = (*spec.split(":", 2), "")[:3]
        return OpenClipScorer(model_name, Path(path), device)
    if isinstance(spec, str | Path):
        folder = Path(spec)
        config_path, weights_path = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    else:
        config_path, weights_path = spec.path(CONFIG_FILE), spec.path(WEIGHTS_FILE)
    try:
        config = json.loads(config_path.read_text())
        model = SmallClip(ClipShape(**config["shape"]))
        model.load_state_dict(load_file(weights_path))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{spec} holds no small CLIP: {error}") from error
    features = features or load_features(device=device)
    text = text or load_text_encoder("minilm", device)
    for tower, digest in (("image_tower", features.digest), ("text_tower", text.digest)):
        if config[tower] != digest:
            raise WeightsError(f"{spec}: its {tower} is {config[tower]}, the one given is {digest}")
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
