"""The run forms of the UI: pydantic models, also used by the command line.

Rules that Prefect's form needs: every field has a title and a description, lists are never
optional, choices are StrEnums, and nothing here is a secret (parameters are stored in clear).
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from kontext.stages import STAGES
from schemas.recipes import RECIPES

RecipeName = StrEnum("RecipeName", {name.replace("-", "_"): name for name in RECIPES})  # type: ignore[misc]
StageName = StrEnum("StageName", {name.replace("-", "_"): name for name in STAGES})  # type: ignore[misc]
_CHOICES = {"all": "all", **{name.replace("-", "_"): name for name in STAGES}}
StageChoice = StrEnum("StageChoice", _CHOICES)  # type: ignore[misc]

_OVERRIDES = "Changes to the recipe, one per entry, as section.key=value; e.g. distill.seed=1"
_STORE = "file:///folder or s3://bucket/prefix. Empty: the KONTEXT_STORE that `kontext up` saw"


class PipelineForm(BaseModel):
    """What to run. Stages whose artifact exists already are reused."""

    model_config = ConfigDict(extra="forbid", title="Pipeline")

    recipe: RecipeName = Field(
        default=next(iter(RecipeName)),
        title="Recipe",
        description="A named configuration of every stage (schemas/recipes.py)",
    )
    overrides: list[str] = Field(default=[], title="Overrides", description=_OVERRIDES)
    only: StageChoice = Field(
        default=StageChoice("all"),
        title="Only",
        description="One stage and whatever depends on it; all others must be done already",
    )
    start: StageChoice = Field(
        default=StageChoice("all"),
        title="From",
        description="One stage and all later ones; earlier stages must be done already",
    )
    force: list[StageName] = Field(
        default=[],
        title="Run again",
        description="Stages to run again although their artifact exists",
    )
    store: str = Field(default="", title="Object store", description=_STORE)


class StageForm(BaseModel):
    """One stage alone. Its inputs must be done already."""

    model_config = ConfigDict(extra="forbid", title="Stage")

    recipe: RecipeName = Field(
        default=next(iter(RecipeName)),
        title="Recipe",
        description="A named configuration of every stage (schemas/recipes.py)",
    )
    overrides: list[str] = Field(default=[], title="Overrides", description=_OVERRIDES)
    force: bool = Field(
        default=False,
        title="Run again",
        description="Run although the artifact of this configuration exists",
    )
    store: str = Field(default="", title="Object store", description=_STORE)


class RefreshForm(BaseModel):
    """The data stages, ingest to index, without training. Made for schedules."""

    model_config = ConfigDict(extra="forbid", title="Data refresh")

    recipe: RecipeName = Field(
        default=next(iter(RecipeName)),
        title="Recipe",
        description="Its data sections decide what is read, mined and kept",
    )
    overrides: list[str] = Field(default=[], title="Overrides", description=_OVERRIDES)
    rescan: bool = Field(
        default=True,
        title="Read the sources again",
        description="Run ingest even where nothing in the recipe changed, to find new images",
    )
    store: str = Field(default="", title="Object store", description=_STORE)
