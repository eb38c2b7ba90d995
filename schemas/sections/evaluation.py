"""Recipe sections of the stages that score a model and publish it."""

from pydantic import Field

from schemas.own_names import NAME
from schemas.sections.base import Section


class EvaluateConfig(Section):
    """Scores of held-out edits."""

    items_per_category: int = Field(60, title="Held-out pairs per category, at most", ge=4)
    teacher_steps: int = Field(20, title="Sampling steps of the teacher")
    teacher_guidance: float = Field(1.0, title="Classifier-free guidance of the teacher (1: none)")
    bootstrap: int = Field(1000, title="Resamples of the cluster bootstrap")
    mask_threshold: float = Field(0.06, title="Change of a pixel that counts as edited (0 to 1)")
    same_arithmetic: bool = Field(True, title="Refuse another kernel or dtype than in training")
    seed: int = Field(0, title="Seed of noise and bootstrap")


class PublishConfig(Section):
    """The published model."""

    name: str = Field("kontext-demo", title="Model name", pattern=NAME)
