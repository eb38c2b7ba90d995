"""Settings that cannot work with what adapters are beside."""

from __future__ import annotations

from kontext.errors import RecipeError
from kontext.parallel.swap import ON_DEVICE
from schemas.sections.models import TransformerShape
from schemas.sections.training import FinetuneConfig

CHANGES_RESULTS = False  # refuses


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
