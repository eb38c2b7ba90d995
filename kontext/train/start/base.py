"""What adapters are beside: its size, and settings that cannot work."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from kontext.errors import RecipeError
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.lora import BLOCKS, linear_layers
from kontext.models.qlora.schemes import bytes_of
from kontext.parallel.swap import ON_DEVICE, waiting_weights
from schemas.sections.models import TransformerShape
from schemas.sections.training import FinetuneConfig

CHANGES_RESULTS = False  # refuses, and counts bytes


def check_base(config: FinetuneConfig, rank: int, given: TransformerShape | None) -> None:
    """Look whether adapters can be trained beside the base that the section asks for.

    Args:
        rank: of the adapters, the recipe's or the given file's; 0: all weights train.
        given: shape of the given weights; None where there are none.

    Raises:
        RecipeError: they cannot.
    """
    for said in _asked(config):
        if not rank:
            raise RecipeError(
                f"{said} is for frozen weights beside adapters: set finetune.lora_rank too, or "
                "weights.adapter"
            )
        if given is None:
            raise RecipeError(f"{said} is for given weights: set weights.transformer too")
        if config.guidance_distill.steps:
            raise RecipeError(
                f"{said} and finetune.guidance_distill do not go together: that trains all weights"
            )
        if config.parallel.compile:
            raise RecipeError(f"{said} and finetune.parallel.compile do not go together")
    if config.parallel.swap and given is not None:
        _check_swap(config, given)


def _asked(config: FinetuneConfig) -> list[str]:
    """What the section asks for that needs a frozen base."""
    said = []
    if config.lora_base != "stored":
        said.append(f"finetune.lora_base={config.lora_base}")
    if config.parallel.swap:
        said.append(f"finetune.parallel.swap={config.parallel.swap}")
    return said


def _check_swap(config: FinetuneConfig, shape: TransformerShape) -> None:
    swapped, there = config.parallel.swap, shape.depth + shape.depth_single_blocks
    said = f"finetune.parallel.swap={swapped}"
    if config.launch.launcher != "in-process":
        raise RecipeError(f"{said} needs finetune.launch.launcher=in-process: one GPU")
    if swapped > there:
        raise RecipeError(f"{said}: the transformer has {there} blocks")
    if swapped <= ON_DEVICE:
        raise RecipeError(
            f"{said} saves no memory: {ON_DEVICE} of the swapped blocks are always on the device"
        )


def base_bytes(config: FinetuneConfig, held: int) -> tuple[int, int]:
    """Bytes on the device of the section's transformer beside adapters, and of a weight in full.

    Args:
        held: bytes a parameter of what is not quantised.
    """
    with torch.device("meta"):
        model = FluxTransformer(config.shape).requires_grad_(False)
    quantized = frozenset[str]()
    if config.lora_base != "stored":
        quantized = frozenset(f"{name}.weight" for name in linear_layers(model, BLOCKS))

    def size(name: str, weight: Tensor) -> int:
        if name not in quantized or config.lora_base == "stored":
            return held * weight.numel()
        return bytes_of(config.lora_base, tuple(weight.shape))

    sizes = {name: size(name, weight) for name, weight in model.named_parameters()}
    waiting = waiting_weights(model, config.parallel.swap)
    turns = Counter[str]()  # by block
    for name in waiting:
        turns[".".join(name.split(".")[:2])] += sizes[name]
    away = sum(turns.values()) - sum(size for _, size in turns.most_common(ON_DEVICE))
    full = max((held * model.get_parameter(name).numel() for name in quantized), default=0)
    return sum(sizes.values()) - away, full
