"""One big GPU: 128 px, emoji, characters, figures, weather, signs and cut-outs on photographs.

Made for a machine without network (`kontext export-store`) and slices of ten minutes. The numbers
of its training sections have not been tuned: no GPU was at hand.
"""

from schemas.recipe import Recipe, small_transformer
from schemas.sections.data import DRAWN, IngestConfig, MineConfig, ScreenConfig, ShardConfig
from schemas.sections.evaluation import EvaluateConfig, PublishConfig
from schemas.sections.models import AutoencoderShape
from schemas.sections.training import AutoencoderConfig, DistillConfig, FinetuneConfig

_SOURCES = (
    {"kind": "emoji", "max_concepts": 300, "max_people": 40},
    {"kind": "meteocons"},
    {"kind": "dicebear", "seeds": 60},
    {
        "kind": "dicebear",
        "styles": ["critters", "moods", "sprouts", "planets"],
        "seeds": 200,
        "art_styles": ["line art", "pixel art"],
        "movement": 12,
    },
    {"kind": "scenes", "scenes": 300},
    {"kind": "signs", "scenes": 150},
    {"kind": "cutouts"},
)


def recipe() -> Recipe:
    """The recipe `h200`."""
    return Recipe(
        name="h200",
        ingest=IngestConfig(sources=_SOURCES, resolution=128),
        mine=MineConfig(pairs_per_category=8000, t2i_singles=2500),
        screen=ScreenConfig(may_pass_all=DRAWN),
        shard=ShardConfig(dataset="h200"),
        autoencoder=AutoencoderConfig(
            shape=AutoencoderShape(ch=64, ch_mult=(1, 2, 4, 4), num_res_blocks=2, norm_groups=16),
            steps=16_000,
            batch=64,
            lr=2e-3,
            warmup=200,
            perceptual_start=6_000,
            latent_noise_start=11_000,
            disc_start=13_000,
            disc_channels=64,
            ema_decay=0.999,
            checkpoint_every=1000,
        ),
        finetune=FinetuneConfig(
            shape=small_transformer(
                hidden_size=768,
                num_heads=12,
                depth=5,
                depth_single_blocks=10,
                axes_dim=(16, 24, 24),
            ),
            t2i_steps=2_000,
            joint_steps=34_000,
            whiten_text=True,
            mask_weight=3.0,
            category_weights={"global": 0.6},
            batch=256,
            lr=1e-3,
            warmup=500,
            ema_decay=0.9995,
            checkpoint_every=1000,
        ),
        distill=DistillConfig(
            teacher_edits=16_000,
            teacher_steps=20,
            steps=4_000,
            warmup_steps=500,
            batch=128,
            lr_heads=2e-4,  # ten times the student's: published recipes have 1 to 10 times
            ema_decay=0.998,
            checkpoint_every=500,
        ),
        evaluate=EvaluateConfig(items_per_category=200),
        publish=PublishConfig(name="kontext-h200"),
    )
