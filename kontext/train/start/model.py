"""The model that a flow's training begins with, laid out on this rank, with its weights read.

Given weights are read into a model on the meta device once it is sharded, so that no process holds
more of them than its own rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from kontext.data.encoded.pair_tensors import PairTensors
from kontext.models.files.lora_files import load_lora
from kontext.models.files.weights import Entry, bfl_entries, in_stored_dtypes, state_entries
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.lora import (
    BLOCKS,
    Adapter,
    adapter_state,
    add_adapters,
    fresh_adapters,
    given_adapters,
    linear_layers,
)
from kontext.models.qlora.linear import quantize_layers, quantized_entries
from kontext.parallel.ranks.inputs import Inputs
from kontext.parallel.shard import fill, shard
from kontext.parallel.swap import swap_blocks, waiting_weights
from kontext.parallel.world import World
from kontext.train.flow.model import flow_lengths, fresh_model, lora_config
from schemas.sections.training import FinetuneConfig

# among a stage's files
START = "start"  # the file or folder whose weights are trained
ADAPTER = "adapter"  # the LoRA file that training goes on from
TEACHER = "teacher"  # the trained flow, for ranks that distil it


def starting_model(
    config: FinetuneConfig, inputs: Inputs, data: PairTensors, world: World
) -> tuple[FluxTransformer, list[Entry]]:
    """The model to train, whole or on the meta device, and what is to be read into it then.

    With `lora_rank` only the adapters beside its layers train: the rest keeps the dtype that it is
    stored in, float32 where `parallel.precision` is, or is quantised as `lora_base` says. Otherwise
    all of it is float32.
    """
    if START not in inputs.files:
        if not world.launches:
            return fresh_model(config, data), []
        with torch.device("meta"):
            return FluxTransformer(config.shape), []
    with torch.device("meta"):
        model = FluxTransformer(config.shape)
    entries = stored_entries(config, inputs.files[START], model)
    in_stored_dtypes(model, entries)
    if config.lora_base != "stored":
        entries = _quantized(config, inputs.files[START], model, entries)
    if config.lora_rank:
        adapters = _adapters(config, inputs, model)
        entries += state_entries(adapter_state(adapters))
        add_adapters(model, adapters)
    return model, entries


def _adapters(config: FinetuneConfig, inputs: Inputs, model: FluxTransformer) -> dict[str, Adapter]:
    """The adapters to train, by the names of their layers."""
    if ADAPTER not in inputs.files:
        return fresh_adapters(model, lora_config(config))
    return given_adapters(load_lora(inputs.files[ADAPTER], model), config.lora_alpha or None)


def stored_entries(config: FinetuneConfig, path: Path, model: FluxTransformer) -> list[Entry]:
    """The given weights in the dtype in which they are held where none are quantised."""
    if not config.lora_rank or config.parallel.precision == "fp32":
        return bfl_entries(path, model, torch.float32)
    entries = bfl_entries(path, model)
    if any(entry.dtype.itemsize == 1 for entry in entries):  # float8: nothing multiplies with it
        return bfl_entries(path, model, torch.bfloat16)
    return entries


def _quantized(
    config: FinetuneConfig, path: Path, model: FluxTransformer, held: Sequence[Entry]
) -> list[Entry]:
    """Quantise the linear layers of a model on the meta device: what is to be read into it.

    They are quantised from the numbers of their file; `held` has everything else.
    """
    assert config.lora_base != "stored"
    names = set(linear_layers(model, BLOCKS))
    exact = {entry.name: entry for entry in bfl_entries(path, model)}
    own = [exact[e.name] if e.name.removesuffix(".weight") in names else e for e in held]
    quantize_layers(model, names, config.lora_base)
    return quantized_entries(own, names, config.lora_base)


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
    quantized = config.lora_base != "stored"
    shard(model, config.parallel, world, products, lengths, whole=quantized)
    swapped = config.parallel.swap
    if start:
        fill(model, start, world.device, waiting_weights(model, swapped))
    swap_blocks(model, swapped, world.device)
