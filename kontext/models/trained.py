"""The networks that the training stages leave in their artifacts, loaded and frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from kontext.models.autoencoder import Autoencoder
from kontext.models.transformer import FluxTransformer
from kontext.models.weights import load_weights
from schemas.train_config import TransformerShape

if TYPE_CHECKING:
    from kontext.stage import ArtifactReader


def load_autoencoder(artifact: ArtifactReader, device: torch.device) -> Autoencoder:
    """The autoencoder of a train-autoencoder artifact.

    Raises:
        WeightsError: the file does not fit its configuration.
    """
    with torch.device("meta"):
        model = Autoencoder.from_config(artifact.json("config.json"))
    load_weights(model, artifact.path("autoencoder.safetensors"))
    return model.requires_grad_(False).eval().to(device)


def load_transformer(artifact: ArtifactReader, name: str, device: torch.device) -> FluxTransformer:
    """The transformer in the file `name` of a finetune or distill artifact.

    Raises:
        WeightsError: the file does not fit its configuration.
    """
    with torch.device("meta"):
        model = FluxTransformer(transformer_shape(artifact.json("config.json")))
    load_weights(model, artifact.path(name))
    return model.requires_grad_(False).eval().to(device)


def transformer_shape(config: dict[str, object]) -> TransformerShape:
    """The shape in a `config.json`: under `shape`, or the whole file."""
    return TransformerShape.model_validate(config.get("shape", config))
