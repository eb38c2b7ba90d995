"""Recipes: everything that decides a result, typed. One small function per named recipe.

A recipe has one section per stage. A stage's artifact digest covers its own section (and its input
artifacts), so changing `distill.seed` redoes distill and what follows, nothing before it. Unknown
keys are errors. The resolved recipe is stored in every manifest. Where things live (store, catalog,
credentials) is environment, never recipe. Sections: `schemas.data_config`, `schemas.train_config`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from schemas.data_config import (
    CaptionConfig,
    CutoutSource,
    DiceBearSource,
    EmojiSource,
    IndexConfig,
    IngestConfig,
    MeteoconsSource,
    MineConfig,
    ScreenConfig,
    Section,
    ShardConfig,
    SignSource,
)
from schemas.train_config import (
    AutoencoderConfig,
    AutoencoderShape,
    DistillConfig,
    EncodeConfig,
    EvaluateConfig,
    FinetuneConfig,
    PictureConfig,
    PublishConfig,
    TransformerShape,
)


class Recipe(Section):
    """A full pipeline configuration."""

    name: str = "custom"
    ingest: IngestConfig = IngestConfig()
    mine: MineConfig = MineConfig()
    caption: CaptionConfig = CaptionConfig()
    screen: ScreenConfig = ScreenConfig()
    shard: ShardConfig = ShardConfig()
    index: IndexConfig = IndexConfig()
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    encode: EncodeConfig = EncodeConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    distill: DistillConfig = DistillConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    publish: PublishConfig = PublishConfig()


# Small pictures have few tokens: at FLUX.1's own shift most noised targets still show the edit, and
# what was asked for is learned slowly (docs/training.md).
SMALL_SHIFT = (3.0, 3.0)


def demo() -> Recipe:
    """The README's recipe: 64 px, real emoji and characters, 2 CPU cores, under 20 minutes."""
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


def ci() -> Recipe:
    """Two minutes on two cores: every stage for real, at sizes that prove wiring, not quality."""
    return Recipe(
        name="ci",
        ingest=IngestConfig(
            sources=(
                EmojiSource(max_concepts=24, max_people=8),
                MeteoconsSource(),
                DiceBearSource(seeds=8, values_per_attribute=2),
                SignSource(scenes=8, words_per_scene=3),
            )
        ),
        mine=MineConfig(
            miners=("attributes", "references", "singles"), pairs_per_category=120, t2i_singles=100
        ),
        screen=ScreenConfig(clip_steps=20, clip_batch=64),
        shard=ShardConfig(dataset="ci", test_fraction=0.15, val_fraction=0.1),
        autoencoder=AutoencoderConfig(
            shape=AutoencoderShape(ch=16, norm_groups=4),
            steps=20,
            batch=8,
            perceptual_start=8,
            disc_start=12,
        ),
        finetune=FinetuneConfig(
            shape=TransformerShape(
                in_channels=64,
                vec_in_dim=384,
                context_in_dim=384,
                hidden_size=64,
                num_heads=2,
                depth=1,
                depth_single_blocks=2,
                axes_dim=(8, 12, 12),
                guidance_embed=False,
                timestep_shift=SMALL_SHIFT,
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
        evaluate=EvaluateConfig(items_per_category=6, teacher_steps=4, bootstrap=100),
        publish=PublishConfig(name="kontext-ci"),
    )


def h200() -> Recipe:
    """One big GPU: 128 px, emoji, characters, weather, signs and cut-outs on photographs.

    Made for a machine without network (`kontext export-store`) and slices of ten minutes. The
    numbers of its training sections have not been tuned: no GPU was at hand.
    """
    return Recipe(
        name="h200",
        ingest=IngestConfig(
            sources=(
                EmojiSource(max_concepts=300, max_people=40),
                MeteoconsSource(),
                DiceBearSource(seeds=60),
                SignSource(scenes=150),
                CutoutSource(),
            ),
            resolution=128,
        ),
        mine=MineConfig(pairs_per_category=8000, t2i_singles=2500),
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
            shape=TransformerShape(
                in_channels=64,
                vec_in_dim=384,
                context_in_dim=384,
                hidden_size=768,
                num_heads=12,
                depth=5,
                depth_single_blocks=10,
                axes_dim=(16, 24, 24),
                guidance_embed=False,
                timestep_shift=SMALL_SHIFT,
            ),
            t2i_steps=2_000,
            joint_steps=34_000,
            whiten_text=True,
            mask_weight=3.0,
            category_weights={"global": 0.6},
            pictures=PictureConfig(steps=4_000, batch=128, lr=2e-4, warmup=100, ema_decay=0.998),
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
            ema_decay=0.998,
            checkpoint_every=500,
        ),
        evaluate=EvaluateConfig(items_per_category=200),
        publish=PublishConfig(name="kontext-h200"),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {"demo": demo, "ci": ci, "h200": h200}


def load_recipe(name: str, overrides: tuple[str, ...] = ()) -> Recipe:
    """Return the named recipe with `section.key=value` overrides applied.

    Values are parsed as JSON and taken as plain strings where they are not JSON.

    Raises:
        ValueError: unknown recipe, malformed override, unknown key or value out of range.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe '{name}' (known: {', '.join(RECIPES)})")
    data = RECIPES[name]().model_dump(mode="json")
    for override in overrides:
        path, sep, raw = override.partition("=")
        if not sep:
            raise ValueError(f"override '{override}' is not of the form section.key=value")
        _assign(data, path.split("."), _parse(raw), override)
    return Recipe.model_validate(data)


def _parse(raw: str) -> Any:
    try:
        return json.loads(raw)
    except json.JSONDecodeError:
        return raw


def _assign(data: Any, path: list[str], value: Any, override: str) -> None:
    for key in path[:-1]:
        if not isinstance(data, dict) or key not in data:
            raise ValueError(f"override '{override}': no such key '{key}'")
        data = data[key]
    if not isinstance(data, dict) or (path[-1] not in data):
        raise ValueError(f"override '{override}': no such key '{path[-1]}'")
    data[path[-1]] = value
