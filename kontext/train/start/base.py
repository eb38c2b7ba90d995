"""What adapters are beside: its size, and settings that cannot work."""

from __future__ import annotations

import torch

from kontext.errors import RecipeError
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.lora import BLOCKS, linear_layers
from kontext.models.qlora.schemes import bytes_of
from schemas.sections.training import FinetuneConfig

CHANGES_RESULTS = False  # refuses, and counts bytes


def check_base(config: FinetuneConfig, rank: int, given: bool) -> None:
    """Look whether adapters can be trained beside the base that the section asks for.

    Args:
        rank: of the adapters, the recipe's or the given file's; 0: all weights train.
        given: whether there are given weights.

    Raises:
        RecipeError: they cannot.
    """
    if config.lora_base == "stored":
        return
    said = f"finetune.lora_base={config.lora_base}"
    if not rank:
        raise RecipeError(
            f"{said} is for frozen weights beside adapters: set finetune.lora_rank too, or "
            "weights.adapter"
        )
    if not given:
        raise RecipeError(f"{said} quantises given weights: set weights.transformer too")
    if config.guidance_distill.steps:
        raise RecipeError(
            f"{said} and finetune.guidance_distill do not go together: that trains all weights"
        )
    if config.parallel.compile:
        raise RecipeError(f"{said} and finetune.parallel.compile do not go together")


def base_bytes(config: FinetuneConfig, held: int) -> tuple[int, int]:
    """Bytes of the section's transformer beside adapters, and of a weight that is read in full.

    Args:
        held: bytes a parameter of what is not quantised.
    """
    with torch.device("meta"):
        model = FluxTransformer(config.shape)
    count = sum(p.numel() for p in model.parameters())
    scheme = config.lora_base
    if scheme == "stored":
        return held * count, 0
    shapes = [model.get_parameter(f"{name}.weight").shape for name in linear_layers(model, BLOCKS)]
    plain = count - sum(shape.numel() for shape in shapes)
    quantized = sum(bytes_of(scheme, tuple(shape)) for shape in shapes)
    return held * plain + quantized, held * max(shape.numel() for shape in shapes)
