"""As FLUX.1 Kontext [dev] was made: edits alone, then guidance distillation into an embedding.

It begins with weights that have no guidance embedding: FLUX.1 [schnell]'s, or a flow of your own
(`--set weights.transformer=finetune/DIGEST`). What comes out takes one pass a step, guided.
"""

from schemas.recipe import Recipe
from schemas.recipes.flux1 import recipe as flux1
from schemas.recipes.flux1 import whole_model
from schemas.sections.training import GuidanceConfig

_GUIDED = GuidanceConfig(
    steps=4_000, low=1.0, high=5.0, batch=64, lr=1e-5, warmup=200, ema_decay=0.999
)


def recipe() -> Recipe:
    """The recipe `flux1-dev`."""
    base = flux1()
    shape = base.finetune.shape.model_copy(update={"guidance_embed": False})
    edits = {
        "shape": shape,
        "t2i_share": 0.0,
        "guidance_told": (1.0, 1.0),
        "text_dropout": 0.1,  # what guidance leads away from
        "guidance_distill": _GUIDED,
    }
    return flux1(
        "flux1-dev",
        weights=whole_model("FLUX.1-schnell"),
        mine=base.mine.model_copy(update={"t2i_singles": 0}),
        finetune=base.finetune.model_copy(update=edits),
    )
