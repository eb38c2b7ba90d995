"""The transformer that training starts from, where the recipe names one, and adapters beside it.

`finetune.init` names a FLUX.1 file (BFL's layout), diffusers' folder, a model folder of ours, or an
artifact as stage/digest: import's model, finetune's flow, or publish's teacher (a few-step student
is no start for flow training).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from kontext.data.encoded.pair_tensors import PairTensors
from kontext.errors import RecipeError
from kontext.models.files.locate import artifact_transformer
from kontext.models.files.recognise import recognise
from kontext.models.files.weights import Entry, bfl_entries, state_entries
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.lora import (
    LoraConfig,
    LoraInfo,
    apply_lora,
    lora_of,
    merge,
    starting_adapters,
)
from kontext.parallel.ranks.inputs import Inputs
from kontext.parallel.shard import fill, shard
from kontext.parallel.world import World
from kontext.train.flow.model import flow_lengths, fresh_model
from kontext.train.start.files import names_artifact, open_init, transformer_path
from schemas.sections.training import FinetuneConfig

if TYPE_CHECKING:
    from kontext.engine.stage import StageContext

LORA = "lora.safetensors"
START = "start"  # among a stage's files: the file or folder whose weights are trained
_NOT_IN_TENSORS = ("num_heads", "axes_dim", "theta", "timestep_shift")  # of a shape


def starting_weights(ctx: StageContext, config: FinetuneConfig) -> Path | None:
    """Where the weights to train lie, for `START`; None where the recipe starts from noise.

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
    ctx.output.metric("init", config.init)
    ctx.note(f"finetune starts from {config.init}; its autoencoder is not compared with encode's")
    if config.whiten_text:
        ctx.note("finetune.whiten_text counts for nothing: the text layers are those of init")
    if config.lora_rank:
        ctx.output.metric("lora_rank", config.lora_rank)
    return path


def starting_model(
    config: FinetuneConfig, inputs: Inputs, data: PairTensors, world: World
) -> tuple[FluxTransformer, list[Entry]]:
    """The model to train, whole or on the meta device, and what is to be read into it then.

    With `lora_rank` only the adapters beside its layers train: the rest keeps the dtype that it is
    stored in, float32 where `parallel.precision` is. Otherwise all of it is float32.
    """
    if START not in inputs.files:
        if not world.launches:
            return fresh_model(config, data), []
        with torch.device("meta"):
            return FluxTransformer(config.shape), []
    with torch.device("meta"):
        model = FluxTransformer(config.shape)
    entries = _stored(config, inputs.files[START], model)
    # modules load parameters in any dtype, but into those that are there already only in theirs
    kinds = {e.name: torch.empty(e.shape, dtype=e.dtype, device="meta") for e in entries}
    model.load_state_dict(kinds, assign=True)
    if config.lora_rank:
        settings = LoraConfig(rank=config.lora_rank, seed=config.seed)
        entries += state_entries(starting_adapters(model, settings))
        apply_lora(model, settings)
    return model, entries


def _stored(config: FinetuneConfig, path: Path, model: FluxTransformer) -> list[Entry]:
    """The given weights in the dtype in which they are held."""
    if not config.lora_rank or config.parallel.precision == "fp32":
        return bfl_entries(path, model, torch.float32)
    entries = bfl_entries(path, model)
    if any(entry.dtype.itemsize == 1 for entry in entries):  # float8: nothing multiplies with it
        return bfl_entries(path, model, torch.bfloat16)
    return entries


def lay_out(
    model: FluxTransformer,
    start: Sequence[Entry],
    config: FinetuneConfig,
    data: PairTensors,
    world: World,
    products: torch.dtype,
) -> None:
    """Bring a model to this rank's device as the recipe says, and read what it starts from.

    A model that was made whole gets rank 0's weights on all ranks: arithmetic may differ between
    machines. A world that launches ranks lays out nothing.

    Raises:
        RecipeError: see `flow_lengths` and `shard`.
    """
    lengths = flow_lengths(config, data)
    if world.launches:
        return
    if not start:
        model.to(world.device)
        world.share(parameter.data for parameter in model.parameters())
    shard(model, config.parallel, world, products, lengths)
    if start:
        fill(model, start, world.device)


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
