"""FLUX.1 [dev] fine-tuned whole, 1 megapixel: edits and text-to-image together, by FSDP2.

The weights are a folder in diffusers' layout (`--set weights=FOLDER`), or the import of that name;
the pairs are your own (`--source`). A model with a guidance embedding is told, while it trains, the
guidance that it will be sampled with: trained at another it loses what its distillation gave it.
Phase one is the checkpoint, so there are no steps of text-to-image alone. Numbers are
those of published fine-tunes; no GPU at hand could run them.
"""

from schemas.recipe import Recipe
from schemas.sections.base import Section
from schemas.sections.data import DRAWN, CaptionConfig, IngestConfig, MineConfig, ScreenConfig
from schemas.sections.evaluation import EvaluateConfig
from schemas.sections.models import AutoencoderShape, TransformerShape
from schemas.sections.training import (
    AutoencoderConfig,
    DistillConfig,
    EncodeConfig,
    FinetuneConfig,
    LaunchConfig,
    ParallelConfig,
)
from schemas.sections.weights import WeightsConfig

GUIDANCE = 2.5  # FLUX.1 Kontext [dev]'s
STEPS = 28
TEXT_LENGTH, WORDS = 512, 350  # tokens of T5; 7 words are 10 of them
EVERY_GPU = LaunchConfig(launcher="torchrun", ranks=0)


def whole_model(name: str) -> WeightsConfig:
    """All three parts of one model."""
    return WeightsConfig(transformer=name, autoencoder=name, text=name)


def recipe(name: str = "flux1", **others: Section) -> Recipe:
    """The recipe `flux1`; or, under another name, one with `others` in the place of its sections.

    Dataset and model are called after the name.
    """
    sections: dict[str, Section] = {
        "weights": whole_model("FLUX.1-dev"),
        "ingest": IngestConfig(resolution=1024, sizes="kontext"),
        "mine": MineConfig(t2i_singles=20_000),
        "caption": CaptionConfig(max_words=WORDS),
        "screen": ScreenConfig(may_pass_all=DRAWN),
        "autoencoder": AutoencoderConfig(shape=AutoencoderShape(), crop=256),
        "encode": EncodeConfig(text_length=TEXT_LENGTH, batch=4),
        "finetune": FinetuneConfig(
            shape=TransformerShape(),
            t2i_steps=0,
            joint_steps=10_000,
            t2i_share=0.1,
            batch=64,
            optimizer="adamw",
            lr=1e-5,
            warmup=500,
            guidance_told=(GUIDANCE, GUIDANCE),
            ema_decay=0.999,
            validate_every=500,
            checkpoint_every=500,
            parallel=ParallelConfig(recompute="selective"),
            launch=EVERY_GPU,
        ),
        "distill": DistillConfig(steps=0),
        "evaluate": EvaluateConfig(
            items_per_category=20,
            teacher_steps=STEPS,
            teacher_guidance=GUIDANCE,
            diagnosed=2,
            step_items=1,
            drift_scripts=4,
        ),
    }
    return Recipe.model_validate({"name": name, **sections, **others})
