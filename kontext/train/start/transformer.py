"""The transformer that training starts from, where the recipe names one, and adapters beside it.

`finetune.init` names a FLUX.1 file (BFL's layout), diffusers' folder, a model folder of ours, or an
artifact as stage/digest: import's model, finetune's flow, or publish's teacher (a few-step student
is no start for flow training).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from kontext.errors import RecipeError
from kontext.models.files.locate import artifact_transformer
from kontext.models.files.recognise import recognise
from kontext.models.files.weights import load_weights
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.lora import LoraConfig, LoraInfo, apply_lora, lora_of, merge
from kontext.train.start.files import names_artifact, open_init, transformer_path
from schemas.sections.training import FinetuneConfig

if TYPE_CHECKING:
    from kontext.engine.stage import StageContext

LORA = "lora.safetensors"
_NOT_IN_TENSORS = ("num_heads", "axes_dim", "theta", "timestep_shift")  # of a shape


def starting_transformer(ctx: StageContext, config: FinetuneConfig) -> FluxTransformer | None:
    """The model to train, float32; None where the recipe starts from noise.

    With `lora_rank` only the adapters beside its layers train.

    Raises:
        RecipeError: no weights there, or of another shape than the recipe's.
        WeightsError: damaged, or keys that are no transformer's.
    """
    if not config.init:
        return None
    if names_artifact(config.init):
        path = artifact_transformer(open_init(ctx, config.init))
    else:
        path = transformer_path(config.init)
    _check_shape(path, config)
    with torch.device("meta"):
        model = FluxTransformer(config.shape)
    load_weights(model, path, torch.float32)
    for parameter in model.parameters():  # memory of our own: training writes into it
        parameter.data = parameter.data.clone()
    ctx.output.metric("init", config.init)
    ctx.note(f"finetune starts from {config.init}; its autoencoder is not compared with encode's")
    if config.whiten_text:
        ctx.note("finetune.whiten_text counts for nothing: the text layers are those of init")
    if config.lora_rank:
        apply_lora(model, LoraConfig(rank=config.lora_rank, seed=config.seed))
        ctx.output.metric("lora_rank", config.lora_rank)
    return model


def save_adapters(ctx: StageContext, config: FinetuneConfig, model: FluxTransformer) -> None:
    """Store trained adapters in diffusers' keys and merge them, so that later stages see weights.

    Does nothing without `lora_rank`.
    """
    if not config.lora_rank:
        return
    from kontext.models.files.lora_files import save_lora

    lora = lora_of(model)
    for note in lora.notes():
        ctx.note(note)
    said = config.init if names_artifact(config.init) else Path(config.init).name
    save_lora(lora, ctx.scratch / LORA, model, info=LoraInfo(base=said))
    ctx.output.add_file(LORA, ctx.scratch / LORA)
    merge(model)


def _check_shape(path: Path, config: FinetuneConfig) -> None:
    """Compare the file's measures with the recipe's before anything is loaded."""
    with torch.device("meta"):
        wanted = FluxTransformer(config.shape)
    if not recognise(path, wanted).problems:
        return
    own = recognise(path).transformer.shape.model_dump()
    differs = [
        f"{name} {own[name]} for {value}"
        for name, value in config.shape.model_dump().items()
        if own[name] != value and name not in _NOT_IN_TENSORS
    ]
    raise RecipeError(
        f"finetune.init: {config.init} is not of finetune.shape: "
        f"{', '.join(differs) or 'its keys differ (kontext doctor lists them)'}"
    )
