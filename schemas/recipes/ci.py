"""Two minutes on two cores: every stage for real, at sizes that prove wiring, not quality.

Its pictures have five shapes, so every stage meets batches of several sizes.
"""

from schemas.recipe import Recipe, small_transformer
from schemas.sections.data import DRAWN, IngestConfig, MineConfig, ScreenConfig, ShardConfig
from schemas.sections.evaluation import EvaluateConfig, PublishConfig
from schemas.sections.models import AutoencoderShape
from schemas.sections.training import (
    AutoencoderConfig,
    DistillConfig,
    FinetuneConfig,
    PictureConfig,
)

_SHAPES = {"canvases": [[1, 1], [5, 3], [3, 5], [2, 1], [1, 2]]}  # as the sizes at 64 px have


def recipe() -> Recipe:
    """The recipe `ci`."""
    return Recipe(
        name="ci",
        ingest=IngestConfig(
            sources=(
                {"kind": "emoji", "max_concepts": 24, "max_people": 8, **_SHAPES},
                {"kind": "meteocons", **_SHAPES},
                {"kind": "dicebear", "seeds": 8, "values_per_attribute": 2, **_SHAPES},
                {"kind": "signs", "scenes": 8, "words_per_scene": 3, **_SHAPES},
            ),
            sizes="kontext",
        ),
        mine=MineConfig(
            miners=("attributes", "bursts", "frames", "references", "singles"),
            pairs_per_category=120,
            t2i_singles=100,
        ),
        screen=ScreenConfig(clip_steps=20, clip_batch=64, may_pass_all=DRAWN),
        shard=ShardConfig(dataset="ci", test_fraction=0.15, val_fraction=0.1),
        autoencoder=AutoencoderConfig(
            shape=AutoencoderShape(ch=16, norm_groups=4),
            steps=20,
            batch=8,
            perceptual_start=8,
            disc_start=12,
        ),
        finetune=FinetuneConfig(
            shape=small_transformer(
                hidden_size=64, num_heads=2, depth=1, depth_single_blocks=2, axes_dim=(8, 12, 12)
            ),
            t2i_steps=6,
            joint_steps=12,
            batch=16,
            checkpoint_every=5,
            whiten_text=True,
            mask_weight=3.0,
            pictures=PictureConfig(steps=4, batch=8),
        ),
        distill=DistillConfig(
            teacher_edits=24, teacher_steps=4, steps=6, warmup_steps=2, batch=8, checkpoint_every=3
        ),
        evaluate=EvaluateConfig(
            items_per_category=6, teacher_steps=4, diagnosed=1, step_items=1, drift_scripts=4
        ),
        publish=PublishConfig(name="kontext-ci"),
        as_default=False,
    )
