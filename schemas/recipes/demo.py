"""The README's recipe: 64 px, real emoji and characters, 2 CPU cores, under 20 minutes."""

from schemas.recipe import Recipe, small_transformer
from schemas.sections.training import FinetuneConfig, PictureConfig


def recipe() -> Recipe:
    """The recipe `demo`."""
    return Recipe(
        name="demo",
        finetune=FinetuneConfig(
            shape=small_transformer(
                hidden_size=256, num_heads=4, depth=2, depth_single_blocks=4, axes_dim=(16, 24, 24)
            ),
            whiten_text=True,
            mask_weight=3.0,
            category_weights={"global": 0.6},
            pictures=PictureConfig(steps=440),
        ),
    )
