"""The run forms of the UI: pydantic models, also used by the command line.

Rules that Prefect's form needs: every field has a title and a description, lists are never
optional, choices are StrEnums, and nothing here is a secret (parameters are stored in clear).
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BaseModel, Field

from flows.quiet import quieten
from kontext.errors import RecipeError
from kontext.stages import STAGES
from kontext.store.recipes import REFERENCE
from schemas.recipes import DEFAULT, RECIPES
from tasks.workspace import resolve_recipe

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

StageName = StrEnum("StageName", {name.replace("-", "_"): name for name in STAGES})  # type: ignore[misc]
quieten()  # every flow has a form
_CHOICES = {"all": "all", **{name.replace("-", "_"): name for name in STAGES}}
StageChoice = StrEnum("StageChoice", _CHOICES)  # type: ignore[misc]


class Wanted(StrEnum):
    """Which partitions a backfill takes."""

    missing = "missing"
    failed = "failed"
    missing_or_failed = "missing or failed"
    all = "all"


class _Form(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """The text under a field is its description in the UI."""


_STORE: str = Field(
    "",
    title="Object store",
    description="file:///folder or s3://bucket/prefix. Empty: the KONTEXT_STORE that `kontext up` "
    "saw",
)
_VERSIONS: list[str] = Field(
    [],
    title="Chosen versions",
    description="Artifacts to take as they are, one per entry: stage/digest, a tag or a stage "
    "name (its latest). Empty: those of the recipe",
)
_ALL = StageChoice("all")


def _offered(schema: dict[str, Any]) -> None:
    """A choice of recipes; `flows.server.offered` adds users' own. The second box takes others."""
    del schema["type"]
    schema["anyOf"] = [
        {"title": "Recipe", "type": "string", "enum": [*RECIPES]},
        {"title": "Version", "type": "string", "pattern": f"^{REFERENCE}$"},
    ]


class RecipeForm(_Form, title="Recipe"):
    """What every run of stages needs: a recipe, changes to it, and a store."""

    recipe: str = Field(DEFAULT, title="Recipe", json_schema_extra=_offered)
    """Values for every stage; `kontext recipe list` says more. A YAML file of your own is offered
    here after `kontext run --recipe FILE`. Version: NAME@DIGEST of an older one"""
    overrides: list[Annotated[str, Field(json_schema_extra={"pattern": "^[^=]+="})]] = Field(
        [],
        title="Overrides",
        description="Changes to the recipe, one per entry, as section.key=value, e.g. "
        "distill.seed=1; `kontext recipe keys` lists all keys",
    )
    store: str = _STORE

    def refused(self) -> State[Any] | None:
        """A failed state that says which recipe or override does not fit; none where all do.

        Flows that dispatch others ask first, and end in this line instead of a traceback.
        """
        from prefect.states import Failed

        try:
            resolve_recipe(self.recipe, self.overrides, self.store)
        except RecipeError as error:
            return Failed(message=f"refused: {error}")
        return None


class PipelineForm(RecipeForm, title="Pipeline"):
    """What to run. Stages whose artifact exists already are reused."""

    only: StageChoice = Field(_ALL, title="Only")
    """One stage and whatever depends on it; all others must be done already"""
    start: StageChoice = Field(_ALL, title="From")
    """One stage and all later ones; earlier stages must be done already"""
    until: StageChoice = Field(_ALL, title="Until")
    """Stop after this stage"""
    force: list[StageName] = Field([], title="Run again")
    """Stages to run again although their artifact exists"""
    versions: list[str] = _VERSIONS


class StageForm(RecipeForm, title="Stage"):
    """One stage alone. Its inputs must be done already."""

    force: bool = Field(False, title="Run again")
    """Run although the artifact of this configuration exists"""
    versions: list[str] = _VERSIONS


class RefreshForm(RecipeForm, title="Data refresh"):
    """The data stages, ingest to index, without training. Made for schedules."""

    rescan: bool = Field(False, title="Read the sources again")
    """Run ingest although folders, packages and recipe look as they did"""
    train: bool = Field(False, title="Train on a new version")
    """A new dataset version starts a pipeline run, by an automation"""


class BackfillForm(RecipeForm, title="Backfill"):
    """One run per source of the recipe, each into a dataset of its own."""

    which: Wanted = Field(Wanted.missing_or_failed, title="Which partitions")
    """Missing: never finished. Failed: the last run of it failed or crashed"""
    partitions: list[str] = Field([], title="Partitions")
    """Names such as emoji or folder-pictures. Empty: every source of the recipe"""
    until: StageChoice = Field(StageChoice("index"), title="Until")
    """Last stage of each partition"""
    at_once: int = Field(2, ge=1, le=16, title="At the same time")
    """Partitions that run at once"""


class NightlyForm(_Form, title="Nightly evaluation"):
    """Evaluates a published model again, with the same items and noise, and compares."""

    store: str = _STORE
    model: str = Field("model@kontext-demo", title="Model")
    """Tag or digest of a publish artifact"""
    tolerance: float = Field(0.05, gt=0, le=1, title="Tolerated fall")
    """How far a success rate may fall below the published one (0 to 1)"""
    night: int = Field(0, ge=0, title="Number of the night")
    """Nights of one number are one evaluation. 0: the day's date"""


class RetentionForm(_Form, title="Retention"):
    """Removes artifacts that no tag needs, and what nothing refers to any more."""

    store: str = _STORE
    delete: bool = Field(False, title="Delete")
    """Off: only say what would be removed"""
    grace_days: int = Field(7, ge=1, title="Days to keep")
    """Nothing younger is touched"""


FormT = TypeVar("FormT", bound=BaseModel)


def form_of_run(kind: type[FormT]) -> FormT:
    """The form of the current run: defaults where it was started without one."""
    from prefect.runtime import flow_run

    given = (flow_run.get_parameters() or {}).get("options")
    return given if isinstance(given, kind) else kind.model_validate(given or {})
