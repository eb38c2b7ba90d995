"""The autoencoder that a recipe gives: taken as it is, or trained further."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from kontext.models.autoencoder.network import Autoencoder
from kontext.models.files.locate import autoencoder_name_in, find_autoencoder
from kontext.models.files.recognise_autoencoder import recognise_autoencoder
from kontext.models.files.weights import load_weights
from kontext.train.start.given import OpenArtifact, located, open_given

if TYPE_CHECKING:
    from kontext.engine.stage import StageContext


def starting_autoencoder(ctx: StageContext) -> Autoencoder | None:
    """The autoencoder of `weights.autoencoder`, float32, with its scale and shift; None: none.

    Raises:
        RecipeError: no weights there.
        WeightsError: damaged, keys that are no autoencoder's, or a number that cannot be read.
    """
    said = ctx.weights.autoencoder
    if not said:
        return None
    path, model = autoencoder_at(said, partial(open_given, ctx))
    load_weights(model, path, torch.float32)
    for parameter in model.parameters():  # memory of our own: training writes into it
        parameter.data = parameter.data.clone()
    ctx.output.metric("init", said)
    return model


def autoencoder_at(said: str, open_artifact: OpenArtifact) -> tuple[Path, Autoencoder]:
    """A file or diffusers' folder, and the model on the meta device, with its scale and shift.

    Raises:
        RecipeError: nothing there.
        ArtifactError, WeightsError: no autoencoder, damaged, or a number that cannot be read.
    """
    path, own = located("autoencoder", said, open_artifact, autoencoder_name_in, find_autoencoder)
    config = own.get("autoencoder", own if "scale" in own else None)
    if config is None:
        return path, recognise_autoencoder(path, guess=False)
    with torch.device("meta"):
        return path, Autoencoder.from_config(config)
