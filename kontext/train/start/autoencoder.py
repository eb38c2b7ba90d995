"""The autoencoder that training starts from, where the recipe names one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from kontext.errors import RecipeError
from kontext.models.autoencoder.network import Autoencoder
from kontext.models.files.recognise_autoencoder import recognise_autoencoder
from kontext.models.files.weights import load_weights
from kontext.train.start.files import autoencoder_path, names_artifact, open_init
from schemas.sections.training import AutoencoderConfig

if TYPE_CHECKING:
    from kontext.engine.stage import StageContext


def starting_autoencoder(ctx: StageContext, config: AutoencoderConfig) -> Autoencoder | None:
    """The autoencoder to train further, float32, with its scale and shift; None: a fresh one.

    `autoencoder.init` names an autoencoder's file or an artifact.

    Raises:
        RecipeError: no weights there, or of another shape than the recipe's.
        WeightsError: damaged, or keys that are no autoencoder's.
    """
    if not config.init:
        return None
    if names_artifact(config.init):
        artifact = open_init(ctx, config.init)
        path = artifact.path("autoencoder.safetensors")
        with torch.device("meta"):
            model = Autoencoder.from_config(artifact.json("config.json"))
    else:
        path = autoencoder_path(config.init)
        with torch.device("meta"):  # FLUX.1's scale and shift, unless a stage measures others
            model = Autoencoder(recognise_autoencoder(path).shape)
    if model.shape != config.shape:
        raise RecipeError(f"autoencoder.init: {config.init} is not of autoencoder.shape")
    load_weights(model, path, torch.float32)
    for parameter in model.parameters():  # memory of our own: training writes into it
        parameter.data = parameter.data.clone()
    ctx.output.metric("init", config.init)
    return model
