"""The run forms of the UI: pydantic models, also used by the command line.

Rules that Prefect's form needs: every field has a title and a description, lists are never
optional, choices are StrEnums, and nothing here is a secret (parameters are stored in clear).
"""

from enum import StrEnum
from typing import TypeVar

from pydantic import BaseModel, Field

from kontext.stages import STAGES
from schemas.recipes import RECIPES

RecipeName = StrEnum("RecipeName", {name.replace("-", "_"): name for name in RECIPES})  # type: ignore[misc]
StageName = StrEnum("StageName", {name.replace("-", "_"): name for name in STAGES})  # type: ignore[misc]
_CHOICES = {"all": "all", **{name.replace("-", "_"): name for name in STAGES}}
StageChoice = StrEnum("StageChoice", _CHOICES)  # type: ignore[misc]


class Wanted(StrEnum):
    """Which partitions a backfill takes."""

    missing = "missing"
    failed = "failed"
    missing_or_failed = "missing or failed"
    all = "all"


_STORE = "file:///folder or s3://bucket/prefix. Empty: the KONTEXT_STORE that `kontext up` saw"


class StoreForm(BaseModel, extra="forbid", title="Store"):
    """Where the artifacts are."""

    store: str = Field(default="", title="Object store", description=_STORE)


class RecipeForm(BaseModel, extra="forbid", title="Recipe"):
    """What every run of stages needs: a recipe, changes to it, and a store."""

    recipe: RecipeName = Field(
        default=next(iter(RecipeName)),
        title="Recipe",
        description="A named configuration of every stage (schemas/recipes/)",
    )
    overrides: list[str] = Field(
        default=[],
        title="Overrides",
        description="Changes to the recipe, one per entry, as section.key=value; "
        "e.g. distill.seed=1",
    )
    store: str = Field(default="", title="Object store", description=_STORE)


_VERSIONS: list[str] = Field(
    default=[],
    title="Chosen versions",
    description="Artifacts to take as they are, one per entry: stage/digest, a tag or a stage "
    "name (its latest). Empty: those of the recipe",
)


class PipelineForm(RecipeForm, title="Pipeline"):
    """What to run. Stages whose artifact exists already are reused."""

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
    until: StageChoice = Field(
        default=StageChoice("all"),
        title="Until",
        description="Stop after this stage",
    )
    force: list[StageName] = Field(
        default=[],
        title="Run again",
        description="Stages to run again although their artifact exists",
    )
    versions: list[str] = _VERSIONS


class StageForm(RecipeForm, title="Stage"):
    """One stage alone. Its inputs must be done already."""

    force: bool = Field(
        default=False,
        title="Run again",
        description="Run although the artifact of this configuration exists",
    )
    versions: list[str] = _VERSIONS


class RefreshForm(RecipeForm, title="Data refresh"):
    """The data stages, ingest to index, without training. Made for schedules."""

    rescan: bool = Field(
        default=False,
        title="Read the sources again",
        description="Run ingest although folders, packages and recipe look as they did",
    )
    train: bool = Field(
        default=False,
        title="Train on a new version",
        description="A new dataset version starts a pipeline run, by an automation",
    )


class BackfillForm(RecipeForm, title="Backfill"):
    """One run per source of the recipe, each into a dataset of its own."""

    which: Wanted = Field(
        default=Wanted.missing_or_failed,
        title="Which partitions",
        description="Missing: never finished. Failed: the last run of it failed or crashed",
    )
    partitions: list[str] = Field(
        default=[],
        title="Partitions",
        description="Names such as emoji or folder-pictures. Empty: every source of the recipe",
    )
    until: StageChoice = Field(
        default=StageChoice("index"), title="Until", description="Last stage of each partition"
    )
    at_once: int = Field(
        default=2,
        ge=1,
        le=16,
        title="At the same time",
        description="Partitions that run at once",
    )


class NightlyForm(StoreForm, title="Nightly evaluation"):
    """Evaluates a published model again, with fresh noise, and compares."""

    model: str = Field(
        default="model@kontext-demo",
        title="Model",
        description="Tag or digest of a publish artifact",
    )
    tolerance: float = Field(
        default=0.1,
        ge=0,
        le=1,
        title="Tolerated fall",
        description="How far a success rate may fall below the published one (0 to 1)",
    )
    seed: int = Field(
        default=0,
        ge=0,
        title="Seed",
        description="Seed of noise and bootstrap. 0: the day's date, so that nights differ",
    )


class RetentionForm(StoreForm, title="Retention"):
    """Removes artifacts that no tag needs, and what nothing refers to any more."""

    delete: bool = Field(
        default=False, title="Delete", description="Off: only say what would be removed"
    )
    grace_days: int = Field(
        default=7, ge=1, title="Days to keep", description="Nothing younger is touched"
    )


FormT = TypeVar("FormT", bound=BaseModel)


def form_of_run(kind: type[FormT]) -> FormT:
    """The form of the current run, for its name: defaults where it was started without one."""
    from prefect.runtime import flow_run

    given = (flow_run.get_parameters() or {}).get("options")
    return given if isinstance(given, kind) else kind.model_validate(given or {})
