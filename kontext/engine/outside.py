"""What stages read that is not in the store: files that a section points to, and given weights."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from kontext.engine.stage import Stage, section_in, weights_in
from kontext.errors import ChangedError
from kontext.store.artifacts.artifact_store import ArtifactStore
from schemas.recipe import Recipe
from schemas.sections.weights import WeightsConfig

CHANGES_RESULTS = False  # its digests are in the artifact's digest

# by name, because they look into weights: that is far above the engine
_FIND = "kontext.train.start.fit:found"  # (weights, recipe, artifacts, pins) -> weights
_DIGESTS = "kontext.train.start.digest:weights_digests"  # (weights, home) -> digests by part
_REQUIRE = "kontext.train.start.fit:require_all"  # (weights): raises where something is missing


class Outside:
    """Digests of what the stages of one recipe read outside the store, looked at once."""

    def __init__(
        self,
        recipe: Recipe,
        artifacts: ArtifactStore,
        home: Path,
        pins: Mapping[str, str] | None = None,
    ) -> None:
        self._recipe, self._artifacts, self._home = recipe, artifacts, home
        self._pins = pins or {}  # stage -> digest, of artifacts that are taken as they are
        self._seen: dict[str, dict[str, Any]] = {}  # by stage

    def of(self, stage: Stage) -> dict[str, Any]:
        """The entries `external` and `weights` of a stage's digest, where it has them.

        Weights that are not there have a digest too: a machine that makes the data can do without.

        Raises:
            RecipeError: what a section points to is not there, or given weights do not fit.
        """
        if stage.name not in self._seen:
            self._seen[stage.name] = self._look(stage)
        return self._seen[stage.name]

    def require(self, stage: Stage) -> None:
        """Raise RecipeError or WeightsError if weights that the stage takes cannot be used here."""
        if (given := self.weights(stage)).named:
            resolve_name(_REQUIRE)(given)

    def check(self, stage: Stage) -> None:
        """Raise ChangedError if what the stage reads is no longer what its digest says."""
        said = self._seen.pop(stage.name, None)
        if said is not None and self.of(stage) != said:
            raise ChangedError(f"what stage '{stage.name}' reads was changed meanwhile: run again")

    def weights(self, stage: Stage) -> WeightsConfig:
        """The given weights that a stage takes: absolute paths, or artifacts as stage/digest."""
        return weights_in(self._found, stage) if stage.weights else WeightsConfig()

    @cached_property
    def _found(self) -> WeightsConfig:
        given = self._recipe.weights
        if not given.named:
            return given  # nothing to look at: nothing heavy is imported
        found: WeightsConfig = resolve_name(_FIND)(given, self._recipe, self._artifacts, self._pins)
        return found

    def _look(self, stage: Stage) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        if stage.external:
            look = resolve_name(stage.external)
            seen["external"] = str(look(section_in(self._recipe, stage), self._home))
        if (given := self.weights(stage)).named:
            seen["weights"] = resolve_name(_DIGESTS)(given, self._home)
        return seen
