"""A recipe: everything that decides a result, typed. The named ones are in `schemas.recipes`.

A recipe has one section per stage. A stage's artifact digest covers its own section (and its input
artifacts), so changing `distill.seed` redoes distill and what follows, nothing before it. Unknown
keys are errors. The resolved recipe is stored in every manifest. Where things live (store, catalog,
credentials) is environment, never recipe.
"""

from __future__ import annotations

from pydantic import Field

from schemas.sections.base import Section
from schemas.sections.data import (
    CaptionConfig,
    IndexConfig,
    IngestConfig,
    MineConfig,
    ScreenConfig,
    ShardConfig,
)
from schemas.sections.evaluation import EvaluateConfig, PublishConfig
from schemas.sections.training import (
    AutoencoderConfig,
    DistillConfig,
    EncodeConfig,
    FinetuneConfig,
)

# Small pictures have few tokens: at FLUX.1's own shift most noised targets still show the edit, and
# what was asked for is learned slowly (docs/training.md).
SMALL_SHIFT = (3.0, 3.0)


class Recipe(Section):
    """A full pipeline configuration."""

    name: str = "custom"
    ingest: IngestConfig = Field(default_factory=IngestConfig)  # finds the sources' settings
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
