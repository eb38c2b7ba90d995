"""The model folder: what publish writes and the editor loads.

    model/config.json               ModelSettings and the two networks' configurations
    model/transformer.safetensors   FluxTransformer, BFL's names
    model/autoencoder.safetensors   Autoencoder, BFL's names

`digest` is a sha256 over configuration and weights: it identifies the model in provenance.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from kontext.errors import WeightsError
from kontext.models.autoencoder import Autoencoder
from kontext.models.convert import load_weights
from kontext.models.transformer import FluxTransformer
from kontext.sample.sizes import SizeRule
from schemas.recipes import AutoencoderShape, TransformerShape

CONFIG, TRANSFORMER, AUTOENCODER = (
    "config.json",
    "transformer.safetensors",
    "autoencoder.safetensors",
)


class ModelSettings(BaseModel):
    """How a model wants to be used."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    text_encoder: str = "minilm"  # see kontext.models.text.load_text_encoder
    text_digest: str = ""  # of the encoder it was trained with; empty: not checked
    text_length: int = 20
    text_mask: bool = False  # trained with padding masked (FLUX.1: not)
    resolution: int = 64  # native side in pixels, for the rule "square"
    sizes: SizeRule = "square"
    steps: int = 4
    guidance: float = 1.0  # embedded where the model has an embedding, else on the text


class AutoencoderFile(BaseModel):
    """The autoencoder's part of `config.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    shape: AutoencoderShape
    scale: float
    shift: float


class ModelFile(BaseModel):
    """`config.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["kontext-model/1"] = "kontext-model/1"
    digest: str
    settings: ModelSettings
    transformer: TransformerShape
    autoencoder: AutoencoderFile


@dataclass(frozen=True)
class LoadedModel:
    """A model folder in memory: both networks in eval mode, without gradients."""

    transformer: FluxTransformer
    autoencoder: Autoencoder
    settings: ModelSettings
    digest: str


class Files(Protocol):
    """Anything that finds files by name, such as a published artifact."""

    def path(self, name: str) -> Path:
        """Local path of the file `name`."""


def save_model_folder(
    folder: Path,
    transformer: FluxTransformer,
    autoencoder: Autoencoder,
    settings: ModelSettings,
) -> str:
    """Write `folder` (created if need be) and return its digest. Same input, same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    _save(transformer, folder / TRANSFORMER)
    _save(autoencoder, folder / AUTOENCODER)
    parts: dict[str, Any] = {
        "settings": settings.model_dump(mode="json"),
        "transformer": transformer.shape.model_dump(mode="json"),
        "autoencoder": autoencoder.config(),
    }
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for name in (TRANSFORMER, AUTOENCODER):
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    config = ModelFile.model_validate({**parts, "digest": digest.hexdigest()})
    text = json.dumps(config.model_dump(mode="json"), indent=2, sort_keys=True)
    (folder / CONFIG).write_text(text + "\n")
    return config.digest


def _save(module: nn.Module, path: Path) -> None:
    state: dict[str, Tensor] = {
        name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()
    }
    save_file(state, path, metadata={"format": "pt"})


def load_model_folder(
    source: Path | Files,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> LoadedModel:
    """Load a folder written by `save_model_folder`, or `model/` of a published artifact.

    Args:
        dtype: of the transformer; None keeps the file's.

    Raises:
        WeightsError: not such a folder, or weights that do not fit its configuration.
    """
    paths = {name: _find(source, name) for name in (CONFIG, TRANSFORMER, AUTOENCODER)}
    try:
        config = ModelFile.model_validate_json(paths[CONFIG].read_text())
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        raise WeightsError(f"{paths[CONFIG]}: not a kontext model configuration") from error
    with torch.device("meta"):
        transformer = FluxTransformer(config.transformer)
        ae = config.autoencoder
        autoencoder = Autoencoder(ae.shape, ae.scale, ae.shift)
    load_weights(transformer, paths[TRANSFORMER], dtype)
    load_weights(autoencoder, paths[AUTOENCODER])
    for module in (transformer, autoencoder):
        module.requires_grad_(False).eval().to(device)
    return LoadedModel(transformer, autoencoder, config.settings, config.digest)


def _find(source: Path | Files, name: str) -> Path:
    path = source / name if isinstance(source, Path) else source.path(f"model/{name}")
    if not path.is_file():
        raise WeightsError(f"{source}: no model here ({name} is missing)")
    return path
