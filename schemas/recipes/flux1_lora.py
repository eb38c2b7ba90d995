"""FLUX.1 Kontext [dev] and adapters beside it, on one GPU: edits from your own pairs.

The weights are a folder in diffusers' layout (`--set weights=FOLDER`), or the import of that name.
The adapters are written in diffusers' keys (`lora.safetensors` of stage finetune).
"""

from schemas.recipe import Recipe
from schemas.recipes.flux1 import recipe as flux1
from schemas.recipes.flux1 import whole_model
from schemas.sections.training import LaunchConfig, ParallelConfig

_ADAPTERS = {
    "lora_rank": 16,
    "joint_steps": 2_000,
    "t2i_share": 0.0,
    "batch": 4,
    "accumulate": 4,  # one sample at a time
    "lr": 1e-4,
    "warmup": 100,
    "text_dropout": 0.05,
    "ema_decay": 0.99,
    "validate_every": 250,
    "checkpoint_every": 250,
    "parallel": ParallelConfig(recompute="full"),
    "launch": LaunchConfig(),
}


def recipe() -> Recipe:
    """The recipe `flux1-lora`."""
    base = flux1()
    return flux1(
        "flux1-lora",
        weights=whole_model("FLUX.1-Kontext-dev"),
        mine=base.mine.model_copy(update={"t2i_singles": 0}),
        finetune=base.finetune.model_copy(update=_ADAPTERS),
    )
