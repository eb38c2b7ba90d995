"""Recipe sections of the stages that score a model and publish it."""

from __future__ import annotations

from pydantic import Field

from schemas.sections.base import Section


class EvaluateConfig(Section):
    items_per_category: int = Field(60, ge=4)
    teacher_steps: int = 20
    teacher_guidance: float = 1.0
    keep_detail: bool = Field(
        True, title="Give edits back what the autoencoder lost of what they left alone"
    )
    bootstrap: int = 1000
    mask_threshold: float = Field(0.06, title="Pixel change that counts as 'should change' (0-1)")
    same_arithmetic: bool = Field(True, title="Stop where kernel or dtype are not the training's")
    seed: int = 0


class PublishConfig(Section):
    name: str = Field("kontext-demo", title="Model name")
