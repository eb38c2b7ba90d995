"""Weights of measures as users have them, but small and random: given to both sides of a test."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import open_clip
import torch
import torchvision
from safetensors.torch import save_file
from transformers import Dinov2Config, Dinov2Model

CLIP = {
    "model_cfg": {
        "embed_dim": 12,
        "vision_cfg": {
            "image_size": 32,
            "layers": 1,
            "width": 32,
            "patch_size": 16,
            "head_width": 16,
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 32,
            "heads": 2,
            "layers": 1,
        },
    },
    "preprocess_cfg": {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]},
}


@contextmanager
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def lpips(folder: Path) -> Path:
    """SqueezeNet's trunk under torchvision's name."""
    path = folder / "lpips" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    path.parent.mkdir(parents=True)
    with seeded():
        torch.save(torchvision.models.squeezenet1_1().state_dict(), path)
    return path


def clip(folder: Path, weights: bool = True) -> Path:
    """A CLIP's folder for open_clip."""
    at = folder / "clip"
    at.mkdir(parents=True)
    (at / "open_clip_config.json").write_text(json.dumps(CLIP))
    if weights:
        with seeded():
            state = open_clip.create_model(f"local-dir:{at}").state_dict()
        save_file({k: v.contiguous() for k, v in state.items()}, at / "open_clip_model.safetensors")
    return at


def dino(folder: Path) -> Path:
    """A DINOv2's folder for transformers."""
    at = folder / "dino"
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=224, patch_size=14
    )
    with seeded():
        Dinov2Model(config).save_pretrained(at)
    return at


def aesthetic(folder: Path, width: int = 12) -> Path:
    """Linear layers as LAION's predictor has them, for embeddings of `width` numbers."""
    at = folder / "aesthetic" / "linearMSE.pth"
    at.parent.mkdir(parents=True)
    with seeded():
        first, last = torch.nn.Linear(width, 5), torch.nn.Linear(5, 1)
    names = {"layers.0": first, "layers.2": last}
    torch.save({f"{n}.{p}": v for n, one in names.items() for p, v in one.state_dict().items()}, at)
    return at


def inception(folder: Path) -> Path:
    """torch-fidelity's Inception."""
    from torch_fidelity import feature_extractor_inceptionv3 as own

    at = folder / "inception" / "weights.pth"
    at.parent.mkdir(parents=True)
    network = own.FeatureExtractorInceptionV3
    # its constructor loads weights or downloads them: here they are being made
    with (
        seeded(),
        patch.object(own, "load_state_dict_from_url", lambda *_, **__: {}),
        patch.object(network, "load_state_dict", lambda *_: None),
    ):
        state = network("made", ["2048"]).state_dict()
    torch.save(state, at)
    return at
