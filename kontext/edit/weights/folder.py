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
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from kontext.edit.sizes import SizeRule
from kontext.errors import WeightsError
from kontext.models.autoencoder.network import Autoencoder
from kontext.models.files.weights import load_weights, state_entries, write_weights
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.quantize import Scheme, check_scheme
from kontext.models.quantize import quantize as quantize_weights
from schemas.sections.models import AutoencoderShape, TransformerShape

if TYPE_CHECKING:
    from kontext.store.artifacts.artifact_store import Artifact

CONFIG = "config.json"
TRANSFORMER, AUTOENCODER = "transformer.safetensors", "autoencoder.safetensors"


class ModelSettings(BaseModel):
    """How a model wants to be used."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    text_encoder: str = "minilm"  # see kontext.models.text.encoders.load_text_encoder
    text_digest: str = ""  # of the encoder it was trained with; empty: not checked
    text_length: int = 20
    text_mask: bool = False  # trained with padding masked (FLUX.1: not)
    resolution: int = 64  # native side in pixels, for the rule "square"
    sizes: SizeRule = "square"  # or [width, height] of all that it was trained at
    steps: int = 4
    guidance: float = 1.0  # embedded where the model has an embedding, else on the text
    keep_detail: bool = False  # restore the context's detail: kontext.edit.detail

    @property
    def made_for(self) -> str:
        """The sizes of pictures that it was trained for, in words."""
        if self.sizes == "kontext":
            return "pictures of about a megapixel, from 672 x 1568 to 1568 x 672"
        if self.sizes == "square":
            return f"pictures of {self.resolution} x {self.resolution}"
        return "pictures of " + ", ".join(f"{width} x {height}" for width, height in self.sizes)


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

    def networks(self) -> tuple[FluxTransformer, Autoencoder]:
        """Both networks on the meta device."""
        with torch.device("meta"):
            return FluxTransformer(self.transformer), Autoencoder(**dict(self.autoencoder))


@dataclass(frozen=True)
class LoadedModel:
    """A model folder in memory: both networks in eval mode, without gradients."""

    transformer: FluxTransformer
    autoencoder: Autoencoder
    settings: ModelSettings
    digest: str
    quantize: Scheme | None = None  # how the transformer's weights are held


def save_model_folder(
    folder: Path, transformer: FluxTransformer, autoencoder: Autoencoder, settings: ModelSettings
) -> str:
    """Write `folder` (created if need be) and return its digest. Same input, same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for module, name in ((transformer, TRANSFORMER), (autoencoder, AUTOENCODER)):
        write_weights(folder / name, state_entries(module.state_dict()), {})
    return write_config(folder, settings, transformer.shape, autoencoder.config())


def write_config(
    folder: Path, settings: ModelSettings, transformer: TransformerShape, autoencoder: Any
) -> str:
    """Write `config.json` next to the two weights files and return the folder's digest.

    Args:
        autoencoder: `Autoencoder.config()`.
    """
    parts: dict[str, Any] = {
        "settings": settings.model_dump(mode="json"),
        "transformer": transformer.model_dump(mode="json"),
        "autoencoder": autoencoder,
    }
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for name in (TRANSFORMER, AUTOENCODER):
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    config = ModelFile.model_validate({**parts, "digest": digest.hexdigest()})
    text = json.dumps(config.model_dump(mode="json"), indent=2, sort_keys=True)
    (folder / CONFIG).write_text(text + "\n")
    return config.digest


def load_model_folder(
    source: Path | Artifact, device: torch.device | str = "cpu", quantize: Scheme | None = None
) -> LoadedModel:
    """Load a folder written by `save_model_folder`, or `model/` of a published artifact.

    Args:
        quantize: hold the transformer's weights as `int8` or `fp8`; done before they go to the
            device, which never holds the unquantised ones.

    Raises:
        WeightsError: not such a folder, weights that do not fit its configuration, or torchao is
            missing.
    """
    if quantize:
        check_scheme(quantize)
    config = read_config(source)
    paths = {name: find_file(source, name) for name in (TRANSFORMER, AUTOENCODER)}
    transformer, autoencoder = config.networks()
    load_weights(transformer, paths[TRANSFORMER])
    load_weights(autoencoder, paths[AUTOENCODER])
    if quantize:
        quantize_weights(transformer, quantize)
    for module in (transformer, autoencoder):
        module.requires_grad_(False).eval().to(device)
    return LoadedModel(transformer, autoencoder, config.settings, config.digest, quantize)


def read_config(source: Path | Artifact) -> ModelFile:
    """The configuration of a model folder. Raises WeightsError where it is none."""
    path = find_file(source, CONFIG)
    try:
        return ModelFile.model_validate_json(path.read_text())
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path}: not a kontext model configuration") from error


def find_file(source: Path | Artifact, name: str) -> Path:
    """Where a file of a model folder lies. Raises WeightsError where it is missing."""
    path = source / name if isinstance(source, Path) else source.path(f"model/{name}")
    if not path.is_file():
        raise WeightsError(f"{source}: no model here ({name} is missing)")
    return path
