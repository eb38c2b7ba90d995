"""Recipe sections of the stages that score a model and publish it."""

from typing import Any

from pydantic import Field, model_validator

from schemas.own_names import NAME
from schemas.sections.base import Section


class EvaluateConfig(Section):
    """Scores of held-out edits."""

    items_per_category: int = Field(60, title="Held-out pairs per category, at most", ge=4)
    teacher_steps: int = Field(20, title="Sampling steps of the teacher")
    teacher_guidance: float = Field(1.0, title="Classifier-free guidance of the teacher (1: none)")
    mask_threshold: float = Field(0.06, title="Change of a pixel that counts as edited (0 to 1)")
    same_arithmetic: bool = Field(True, title="Refuse another kernel or dtype than in training")
    seed: int = Field(0, title="Seed of items and noise")
    margin: float = Field(
        0.05, title="Difference of two models' success that counts as none (0 to 1)", gt=0, lt=1
    )
    diagnosed: int = Field(
        12, title="Items per category that are edited anew to find causes (0: none)", ge=0
    )
    step_items: int = Field(
        4, title="Items per category that are edited in 1 to 28 steps (0: none)", ge=0
    )
    drift_scripts: int = Field(
        24, title="Scripts of eight edits in turn on one picture, at most (0: none)", ge=0
    )
    night: int = Field(0, title="Number of a repetition, which changes no result", ge=0)

    @model_validator(mode="before")
    @classmethod
    def _without_resamples(cls, data: Any) -> Any:
        """Recipes and manifests of earlier versions say how often clusters were resampled."""
        if not isinstance(data, dict):
            return data
        return {name: value for name, value in data.items() if name != "bootstrap"}


class PublishConfig(Section):
    """The published model."""

    name: str = Field("kontext-demo", title="Model name", pattern=NAME)
    worse: bool = Field(False, title="Publish a model that is worse than the one of this name")
