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

    name: str = Field("custom", title="Name")
    # by a factory: its default looks for the sources' settings
    ingest: IngestConfig = Field(default_factory=IngestConfig, title="Images")
    mine: MineConfig = Field(MineConfig(), title="Mining of pairs")
    caption: CaptionConfig = Field(CaptionConfig(), title="Captions")
    screen: ScreenConfig = Field(ScreenConfig(), title="Screening")
    shard: ShardConfig = Field(ShardConfig(), title="Shards and splits")
    index: IndexConfig = Field(IndexConfig(), title="Catalog")
    autoencoder: AutoencoderConfig = Field(AutoencoderConfig(), title="Autoencoder")
    encode: EncodeConfig = Field(EncodeConfig(), title="Encoding")
    finetune: FinetuneConfig = Field(FinetuneConfig(), title="Teacher")
    distill: DistillConfig = Field(DistillConfig(), title="Student")
    evaluate: EvaluateConfig = Field(EvaluateConfig(), title="Evaluation")
    publish: PublishConfig = Field(PublishConfig(), title="Publication")
