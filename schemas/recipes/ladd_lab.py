"""Distillation under test, 64 px, 2 CPU cores: a teacher whom few steps really hurt.

Where an instruction leaves one answer, a flow is a bundle of straight lines, as good in one step as
in twenty, and no student can show anything. Here half of what is learnt has many answers: figures
drawn from few words ("a monster"). The other half are edits. The timestep shift is FLUX.1's own, so
that few steps are uneven ones; the teacher is trained for guidance, which costs a second pass that
its students save. Heads see less noise than LADD publishes: 16 tokens of 128 channels leave little
to see under more.

`python -m benchmarks.distillation` trains the students of the table (docs/distillation.md) on what
this recipe has made up to finetune.
"""

from schemas.recipe import Recipe
from schemas.recipes.demo import recipe as demo
from schemas.sections.data import (
    DRAWN,
    CaptionConfig,
    IngestConfig,
    MineConfig,
    ScreenConfig,
    ShardConfig,
)
from schemas.sections.evaluation import EvaluateConfig
from schemas.sections.models import TransformerShape
from schemas.sections.training import AutoencoderConfig, DistillConfig, FinetuneConfig

_GUIDANCE = 2.0
_FIGURES = {
    "kind": "dicebear",
    "styles": ["critters", "moods"],
    "attributes": ["expression"],
    "art_styles": ["line art", "pixel art"],
    "seeds": 200,
    "movement": 5,
}
_FLUX_SHIFT = TransformerShape().timestep_shift


def recipe() -> Recipe:
    """The recipe `ladd-lab`."""
    small = demo()
    return Recipe(
        name="ladd-lab",
        ingest=IngestConfig(sources=(_FIGURES,)),
        mine=MineConfig(pairs_per_category=3000, t2i_singles=2400),
        caption=CaptionConfig(short_share=1.0),
        screen=ScreenConfig(may_pass_all=DRAWN),
        shard=ShardConfig(test_fraction=0.15),
        autoencoder=AutoencoderConfig(
            shape=small.autoencoder.shape,
            steps=1000,
            perceptual_start=760,
            latent_noise=0.2,
            latent_noise_start=840,
            disc_start=940,
        ),
        finetune=FinetuneConfig(
            shape=small.finetune.shape.model_copy(update={"timestep_shift": _FLUX_SHIFT}),
            whiten_text=True,
            text_dropout=0.1,
            t2i_steps=200,
            joint_steps=1300,
            t2i_share=0.5,
            batch=32,
        ),
        distill=DistillConfig(
            teacher_edits=384,
            teacher_steps=20,
            guidance=_GUIDANCE,
            t2i_share=0.5,
            steps=200,
            warmup_steps=10,
            batch=16,
            renoise_mean=-1.0,
            r1_weight=1.0,
            lr_heads=1e-3,
            lr_student=2e-5,
            lr_fake=1e-4,
            dmd_fake_updates=2,
        ),
        evaluate=EvaluateConfig(teacher_guidance=_GUIDANCE),
        as_default=False,
    )
