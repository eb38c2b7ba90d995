"""Distillation under test on one GPU: the recipe `ladd-lab`, larger and longer.

The numbers of its training sections have not been tuned: no GPU has run it yet.
"""

from schemas.recipe import Recipe
from schemas.recipes.ladd_lab import recipe as small
from schemas.sections.models import AutoencoderShape

_CODEC = {
    "shape": AutoencoderShape(ch=64, ch_mult=(1, 2, 4), num_res_blocks=2, norm_groups=16),
    "steps": 12_000,
    "batch": 64,
    "lr": 2e-3,
    "warmup": 200,
    "perceptual_start": 5_000,
    "latent_noise_start": 8_000,
    "disc_start": 10_000,
    "disc_channels": 64,
    "ema_decay": 0.999,
    "checkpoint_every": 1000,
}
_FLOW = {
    "t2i_steps": 2_000,
    "joint_steps": 28_000,
    "batch": 256,
    "lr": 1e-3,
    "warmup": 500,
    "ema_decay": 0.9995,
    "checkpoint_every": 1000,
}
_STUDENT = {
    "teacher_edits": 8_000,
    "steps": 3_000,
    "warmup_steps": 300,
    "batch": 96,
    "lr_student": 2e-5,
    "lr_fake": 2e-5,
    "dmd_fake_updates": 5,
    "ema_decay": 0.998,
    "checkpoint_every": 500,
}
_WIDE = {
    "in_channels": 64,
    "hidden_size": 512,
    "num_heads": 8,
    "depth": 4,
    "depth_single_blocks": 8,
}


def recipe() -> Recipe:
    """The recipe `ladd-lab-gpu`."""
    lab = small()
    (figures,) = lab.ingest.sources
    source = figures.model_copy(update={"seeds": 1500, "values_per_attribute": 5})
    shape = lab.finetune.shape.model_copy(update=_WIDE)
    return Recipe(
        name="ladd-lab-gpu",
        ingest=lab.ingest.model_copy(update={"sources": (source,)}),
        mine=lab.mine.model_copy(update={"pairs_per_category": 20_000, "t2i_singles": 12_000}),
        screen=lab.screen,
        shard=lab.shard.model_copy(update={"dataset": "ladd-lab-gpu"}),
        autoencoder=lab.autoencoder.model_copy(update=_CODEC),
        finetune=lab.finetune.model_copy(update={"shape": shape, **_FLOW}),
        distill=lab.distill.model_copy(update=_STUDENT),
        evaluate=lab.evaluate.model_copy(update={"items_per_category": 200}),
        as_default=False,
    )
