"""The README's recipe: 64 px, real emoji and characters, 2 CPU cores, under 20 minutes."""

from __future__ import annotations

from schemas.recipe import SMALL_SHIFT, Recipe
from schemas.sections.training import FinetuneConfig, PictureConfig


def recipe() -> Recipe:
    """The recipe `demo`."""
    flow = FinetuneConfig()
    return Recipe(
        name="demo",
        finetune=flow.model_copy(
            update={
                "shape": flow.shape.model_copy(update={"timestep_shift": SMALL_SHIFT}),
                "whiten_text": True,
                "mask_weight": 3.0,
                "category_weights": {"global": 0.6},
                "pictures": PictureConfig(steps=440),
            }
        ),
    )
