"""The README's recipe: a small world, 64 px, 2 CPU cores.

Few kinds of edits, many subjects: a small flow learns every one of them. What a picture shows is
moved and scaled by a few pixels from subject to subject, so that no training picture's edit can be
copied onto a held-out one.
"""

from schemas.recipe import Recipe, small_transformer
from schemas.sections.data import DRAWN, IngestConfig, MineConfig, ScreenConfig, ShardConfig
from schemas.sections.models import AutoencoderShape
from schemas.sections.training import AutoencoderConfig, FinetuneConfig

_FIGURES, _SCENES = 200, 300
_ART = {"art_styles": ["line art", "pixel art"], "movement": 5}
_SOURCES = (
    {"kind": "dicebear", "styles": ["critters", "moods", "sprouts"], "seeds": _FIGURES, **_ART},
    {
        "kind": "dicebear",
        "styles": ["planets"],
        "seeds": _FIGURES,
        "attributes": ["color"],
        "values_per_attribute": 2,
        "movement": 5,
    },
    {
        "kind": "scenes",
        "scenes": _SCENES,
        "weathers": ["sunny", "cloudy", "rainy", "stormy"],
    },
    {"kind": "signs", "scenes": _SCENES, "words": list("0123456789")},
)


def recipe() -> Recipe:
    """The recipe `demo`."""
    return Recipe(
        name="demo",
        ingest=IngestConfig(sources=_SOURCES),
        mine=MineConfig(pairs_per_category=8000, t2i_singles=600),
        screen=ScreenConfig(may_pass_all=DRAWN),
        shard=ShardConfig(test_fraction=0.15),
        autoencoder=AutoencoderConfig(
            shape=AutoencoderShape(
                ch=16, ch_mult=(1, 2, 6, 8), num_res_blocks=1, norm_groups=8, z_channels=32
            ),
            steps=2200,
            perceptual_start=1700,
            latent_noise=0.2,
            latent_noise_start=1850,
            disc_start=2050,
        ),
        finetune=FinetuneConfig(
            shape=small_transformer(
                in_channels=128,
                hidden_size=256,
                num_heads=4,
                depth=2,
                depth_single_blocks=4,
                axes_dim=(16, 24, 24),
            ),
            whiten_text=True,
            mask_weight=6.0,
            text_dropout=0.05,
            t2i_steps=20,
            joint_steps=3980,
            batch=32,
            t2i_share=0.05,
            category_weights={"local": 1.3, "global": 0.8, "character": 1.3, "text": 1.6},
        ),
    )
