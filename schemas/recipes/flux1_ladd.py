"""As FLUX.1 Kontext [pro] was made: the flow on edits and text-to-image, then a student by LADD.

The teacher's edits are most of the cost: 28 steps of a guided model each.
"""

from schemas.recipe import Recipe
from schemas.recipes.flux1 import EVERY_GPU, GUIDANCE, STEPS
from schemas.recipes.flux1 import recipe as flux1
from schemas.sections.training import DistillConfig, ParallelConfig

_TAPS = (4, 9, 14, 18, 28, 37, 47, 56)  # double blocks first: structure and texture both vote


def recipe() -> Recipe:
    """The recipe `flux1-ladd`."""
    return flux1(
        "flux1-ladd",
        distill=DistillConfig(
            teacher_edits=20_000,
            teacher_steps=STEPS,
            guidance=GUIDANCE,
            steps=4_000,
            warmup_steps=500,
            batch=64,
            lr_student=2e-6,
            lr_heads=4e-6,
            taps=_TAPS,
            anchor_weight=0.0,  # edits made at a fixed guidance need no distance to the teacher
            heads_floor=0.6,
            ema_decay=0.999,
            validate_every=500,
            checkpoint_every=250,
            parallel=ParallelConfig(recompute="selective"),
            launch=EVERY_GPU,
        ),
    )
