"""Recipe section of the stage that trains a model not to follow excluded concepts."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from schemas.sections.base import Section
from schemas.sections.training import GuardConfig, LaunchConfig


class Concept(Section):
    """What a model is not to follow: the edits of a relation, or those that are asked for so."""

    name: str = Field(title="What reports call it", min_length=1)
    relation: str = Field("", title="Relation of its training edits, such as expression")
    values: tuple[str, ...] = Field(
        (), title="Labels that they edit to (none: all of the relation)"
    )
    pattern: str = Field("", title="Regular expression that finds its instructions")
    words: tuple[str, ...] = Field((), title="Words for it (none: the labels)")
    phrases: tuple[str, ...] = Field((), title="Instructions that ask for it, beside the data's")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"'{pattern}' is no regular expression: {error}") from error
        return pattern

    @model_validator(mode="after")
    def _finds_something(self) -> Concept:
        if not self.relation and not self.pattern:
            raise ValueError(f"concept '{self.name}' needs a relation or a pattern")
        if self.values and not self.relation:
            raise ValueError(f"concept '{self.name}' has values, but says not of which relation")
        return self


class ExcludeConfig(Section):
    """Safety training: what is excluded, rounds of attack and training, and what they may cost."""

    concepts: tuple[Concept, ...] = Field((), title="Excluded concepts (none: no such stage)")
    rounds: int = Field(
        3, title="Rounds of training, with an attack before each but the first", ge=1
    )
    steps: int = Field(100, title="Training steps of a round", ge=1)
    batch: int = Field(32, title="Batch, in pairs", ge=2)
    share: float = Field(0.15, title="Share of a batch that asks for what is excluded", gt=0, lt=1)
    preserve: Literal["data", "model"] = Field(
        "data", title="What the rest is trained on: the data's targets, or the model as it was"
    )
    preserve_weight: float = Field(1.0, title="Loss weight of all that is to stay", ge=0)
    lr: float = Field(3e-4, title="Learning rate")
    warmup: int = Field(10, title="Warm-up of the learning rate, in steps")
    clip: float = Field(1.0, title="Largest gradient norm")
    ema_decay: float = Field(0.97, title="Decay of the exponential moving average, per step")
    mixes: tuple[float, ...] = Field(
        (0.2, 0.3, 0.4, 0.5, 0.6, 0.8),
        title="Shares of the training that are tried, rising: the first is kept with which no "
        "attack succeeds (none: all of it)",
    )
    attacks: int = Field(80, title="Phrasings that an attack tries", ge=1)
    subjects: int = Field(6, title="Held-out subjects that each of them is tried on", ge=1)
    strongest: int = Field(
        8, title="Phrasings of the last attack that success is measured with", ge=1
    )
    sample_steps: int = Field(8, title="Sampling steps of attacks and measurements", ge=1)
    guidance: float = Field(1.0, title="Classifier-free guidance of both (1: none)", ge=0)
    items: int = Field(60, title="Held-out edits per category that costs are measured on", ge=4)
    launch: LaunchConfig = Field(LaunchConfig(), title="Processes")
    guard: GuardConfig = Field(GuardConfig(), title="Bad steps")
    checkpoint_every: int = Field(50, title="Steps between checkpoints")
    seed: int = Field(0, title="Seed")

    @field_validator("mixes")
    @classmethod
    def _rise(cls, mixes: tuple[float, ...]) -> tuple[float, ...]:
        if list(mixes) != sorted(set(mixes)) or any(not 0 < share < 1 for share in mixes):
            raise ValueError(f"{mixes} are not rising shares between 0 and 1")
        return mixes
