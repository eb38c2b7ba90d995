"""The transformer that training starts from, where the recipe gives one, and adapters beside it.

It is a FLUX.1 file (BFL's layout), diffusers' folder, a model folder of ours, or in an artifact:
import's model, finetune's flow, or publish's teacher (a few-step student is no start for flow
training). Its shape is read from the weights.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from kontext.models.files.locate import find_transformer, transformer_name_in
from kontext.models.files.recognise import recognise
from kontext.models.files.weights import write_weights
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.lora import LoraInfo, adapters, lora_of, merge
from kontext.train.record.outputs import save_weights
from kontext.train.start.adapter import LORA, GivenAdapter, starting_adapter
from kontext.train.start.base import check_base
from kontext.train.start.given import OpenArtifact, located, names_artifact, open_given
from kontext.train.start.model import stored_entries
from schemas.sections.models import TransformerShape
from schemas.sections.training import FinetuneConfig

if TYPE_CHECKING:
    from kontext.engine.stage import StageContext


FLOW = "flow.safetensors"  # among finetune's files


class Given(NamedTuple):
    """Weights to train: where they lie, and the shape that they are of; adapters to go on from."""

    path: Path
    shape: TransformerShape
    adapter: GivenAdapter | None = None


def starting_weights(ctx: StageContext, config: FinetuneConfig) -> Given | None:
    """What `weights.transformer` names; None where training starts from noise.

    Raises:
        RecipeError: no weights there, or settings of `check_base`.
        WeightsError: damaged, keys that are no transformer's, or a number that cannot be read.
        For those of `weights.adapter` see `starting_adapter`.
    """
    said = ctx.weights.transformer
    if not said:
        check_base(config, config.lora_rank, None)
        return None
    path, model = transformer_at(said, partial(open_given, ctx))
    ctx.output.metric("init", said)
    ctx.note(f"finetune starts from {said}")
    if config.whiten_text:
        ctx.note("finetune.whiten_text counts for nothing: the text layers are the given ones")
    adapter = starting_adapter(ctx, config, model)
    rank = adapter.rank if adapter else config.lora_rank
    check_base(config, rank, model.shape)
    if rank:
        ctx.output.metric("lora_rank", rank)
        ctx.output.metric("lora_base", config.lora_base)
    return Given(path, model.shape, adapter)


def transformer_at(said: str, open_artifact: OpenArtifact) -> tuple[Path, FluxTransformer]:
    """A file or diffusers' folder, and the model on the meta device that its tensors fit.

    Raises:
        RecipeError: nothing there.
        ArtifactError, WeightsError: no transformer, damaged, or a shape that cannot be read.
    """
    path, own = located("transformer", said, open_artifact, transformer_name_in, find_transformer)
    shape, model = own.get("transformer", own.get("shape")), None
    if shape is not None:
        with torch.device("meta"):
            model = FluxTransformer(TransformerShape.model_validate(shape))
    return path, recognise(path, model).require_whole().transformer


def save_adapters(
    ctx: StageContext,
    config: FinetuneConfig,
    model: FluxTransformer,
    before: GivenAdapter | None = None,
) -> None:
    """Store trained adapters in diffusers' keys and merge them, so that later stages see weights.

    Does nothing without `lora_rank`. Adapters beside a base that is quantised, or swapped, stay
    where they are: they are merged into the stored weights, by `save_flow`.

    Args:
        before: what training went on from: its words are the new file's.
    """
    if not config.lora_rank:
        return
    from kontext.models.files.lora_files import save_lora

    lora = lora_of(model)
    for note in lora.notes():
        ctx.note(note)
    given = ctx.weights.transformer
    said = given if names_artifact(given) else Path(given).name
    info = replace(before.info, base=said) if before else LoraInfo(base=said)
    save_lora(lora, ctx.scratch / LORA, without_weights(model), info=info)
    ctx.output.add_file(LORA, ctx.scratch / LORA)
    if config.lora_base == "stored" and not config.parallel.swap:
        merge(model)


def save_flow(
    ctx: StageContext, config: FinetuneConfig, model: FluxTransformer, given: Given | None
) -> None:
    """Store the weights that later stages take.

    Where the model still has adapters they are merged into the given weights as those are stored,
    one tensor at a time: the model is nowhere held in full precision.
    """
    if not adapters(model):
        save_weights(ctx, FLOW, model.state_dict())
        return
    assert given is not None
    entries = stored_entries(config, given.path, without_weights(model))
    write_weights(ctx.scratch / FLOW, lora_of(model).merged(entries), {})
    ctx.output.add_file(FLOW, ctx.scratch / FLOW)


def without_weights(model: FluxTransformer) -> FluxTransformer:
    """A plain model of the same shape on the meta device."""
    with torch.device("meta"):
        return FluxTransformer(model.shape)
