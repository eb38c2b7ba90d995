"""A recipe: everything that decides a result, typed. The named ones are in `schemas.recipes`.

A recipe has one section per stage: a field here, or the class `Settings` in the stage's own file,
which is found there. A stage's artifact digest covers its own section (and its input artifacts), so
changing `distill.seed` redoes distill and what follows, nothing before it. Given weights
(`weights`) count for the stages that take them, by their content. Unknown keys are errors. The
resolved recipe is stored in every manifest. Where things live (store, catalog, credentials) is
environment, never recipe.
"""

from typing import Any

from pydantic import ConfigDict, Field, GetCoreSchemaHandler, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema

from schemas.discovery import plugins
from schemas.own_names import named_after_recipe
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
from schemas.sections.exclusion import ExcludeConfig
from schemas.sections.models import TransformerShape
from schemas.sections.training import AutoencoderConfig, DistillConfig, EncodeConfig, FinetuneConfig
from schemas.sections.weights import WeightsConfig, with_moved_keys
from schemas.words import NAME

DEFAULT = "demo"  # the recipe that is run where none is named


def small_transformer(**sizes: Any) -> TransformerShape:
    """A transformer for small images and the small text encoder, of the given sizes.

    Small images have few tokens. At FLUX.1's own shift most noised targets still show the edit, and
    the model is slow to learn what the instruction asks for (docs/training.md).
    """
    return TransformerShape(
        vec_in_dim=384, context_in_dim=384, guidance_embed=False, timestep_shift=(3.0, 3.0), **sizes
    )


def sections_of_stage_files() -> dict[str, FieldInfo]:
    """Section -> field, of the stages whose files hold their own `Settings`, by file."""
    files = plugins("kontext.stages", "Settings").values()
    return {
        file.STAGE.section: FieldInfo.from_annotated_attribute(
            file.Settings, Field(file.Settings(), title=file.STAGE.summary)
        )
        for file in files
    }


def with_one_policy(data: dict[str, Any]) -> dict[str, Any]:
    """The fields of a recipe, whose ingest keeps nothing that its screening would refuse."""
    screen, ingest = data.get("screen", {}), data.get("ingest", {})
    named = screen.get("policy") if isinstance(screen, dict) else screen.policy
    policy = named or ScreenConfig.model_fields["policy"].default
    if isinstance(ingest, dict):
        return {**data, "ingest": {**ingest, "policy": policy}}
    return {**data, "ingest": ingest.model_copy(update={"policy": policy})}


class Recipe(Section):
    """A full pipeline configuration."""

    model_config = ConfigDict(defer_build=True)  # until first used: then stages' files are found

    name: str = Field("custom", title="Name", pattern=f"^{NAME}$")  # it is part of paths
    weights: WeightsConfig = Field(WeightsConfig(), title="Given weights")
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
    exclude: ExcludeConfig = Field(ExcludeConfig(), title="Safety training")
    distill: DistillConfig = Field(DistillConfig(), title="Student")
    evaluate: EvaluateConfig = Field(EvaluateConfig(), title="Evaluation")
    publish: PublishConfig = Field(PublishConfig(), title="Publication")
    as_default: bool = Field(
        True, title="Its dataset and model are used where a command names none"
    )

    @model_validator(mode="before")
    @classmethod
    def _own_names(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return with_one_policy(named_after_recipe(with_moved_keys(data)))

    @model_validator(mode="after")
    def _texts_are_read_to_the_end(self) -> "Recipe":
        """Longer texts than usual need a text encoder that reads them: 7 words are 10 tokens."""
        words, usual = self.caption.max_words, CaptionConfig.model_fields["max_words"].default
        needed = -(-words * 10 // 7)
        if words > usual and needed > self.encode.text_length:
            raise ValueError(
                f"caption.max_words={words} needs encode.text_length={needed} or more (it is "
                f"{self.encode.text_length}): the text encoder reads no further"
            )
        return self

    @model_validator(mode="after")
    def _what_needs_given_weights(self) -> "Recipe":
        if self.finetune.lora_rank and not self.weights.transformer:
            raise ValueError(
                "finetune.lora_rank trains adapters of given weights: set weights.transformer too"
            )
        if self.weights.adapter and not self.weights.transformer:
            raise ValueError(
                "weights.adapter holds adapters of given weights: set weights.transformer too"
            )
        if self.weights.adapter and self.finetune.optimizer == "muon":
            raise ValueError(
                "weights.adapter needs finetune.optimizer=adamw: Muon is for whole matrices, not "
                "their factors"
            )
        if self.autoencoder.given != "nothing" and not self.weights.autoencoder:
            raise ValueError(
                f"autoencoder.given={self.autoencoder.given} trains given weights: set "
                "weights.autoencoder too"
            )
        return self

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        for name, section in sections_of_stage_files().items():
            if cls.model_fields.setdefault(name, section).annotation is not section.annotation:
                raise ValueError(f"the recipe section '{name}' is declared twice")
        return handler(source)
