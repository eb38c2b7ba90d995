"""The transformer that training starts from, where the recipe gives one, and adapters beside it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from kontext.models.files.weights import load_weights
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.lora import apply_lora, lora_of, merge
from kontext.train.flow.model import lora_config
from kontext.train.start.given import open_given, transformer_at
from schemas.sections.training import FinetuneConfig

if TYPE_CHECKING:
    from kontext.engine.stage import StageContext

LORA = "lora.safetensors"


def starting_transformer(ctx: StageContext, config: FinetuneConfig) -> FluxTransformer | None:
    """The model of `weights.transformer` to train, float32; None where it starts from noise.

    Its shape is that of the weights. With `lora_rank` only the adapters beside its layers train.

    Raises:
        RecipeError: no weights there.
        WeightsError: damaged, keys that are no transformer's, or a number that cannot be read.
    """
    said = ctx.weights.transformer
    if not said:
        return None
    path, model = transformer_at(said, partial(open_given, ctx))
    load_weights(model, path, torch.float32)
    for parameter in model.parameters():  # memory of our own: training writes into it
        parameter.data = parameter.data.clone()
    ctx.output.metric("init", said)
    ctx.note(f"finetune starts from {said}")
    if config.whiten_text:
        ctx.note("finetune.whiten_text counts for nothing: the text layers are the given ones")
    if config.lora_rank:
        apply_lora(model, lora_config(config))
        ctx.output.metric("lora_rank", config.lora_rank)
    return model


def save_adapters(ctx: StageContext, config: FinetuneConfig, model: FluxTransformer) -> None:
    """Store trained adapters in diffusers' keys and merge them, so that later stages see weights.

    Does nothing without `lora_rank`.
    """
    if not config.lora_rank:
        return
    from kontext.models.files.lora_files import save_lora

    save_lora(lora_of(model), ctx.scratch / LORA, model)
    ctx.output.add_file(LORA, ctx.scratch / LORA)
    merge(model)
