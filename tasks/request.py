"""What `kontext run` was asked for, and the stages that it comes to."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from kontext.engine.graph import downstream
from kontext.engine.run import Engine
from kontext.engine.stage import PlannedStage
from kontext.errors import ArtifactError, KontextError, RecipeError
from kontext.stages import STAGES
from tasks.report import export_report
from tasks.workspace import open_engine, places, resolve_recipe


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    recipe: str
    overrides: Sequence[str] = ()
    store: str = ""
    only: str = ""
    start: str = ""
    force: bool = False
    until: str = ""
    versions: Sequence[str] = ()
    accept: Sequence[str] = ()  # stages to take as they are, although their code changed

    def command(self) -> str:
        """The command that continues this run where it stopped."""
        words = ["kontext run", f"--recipe {self.recipe}"]
        words += [f"--set '{override}'" for override in self.overrides]
        words += [f"--store {self.store}"] if self.store else []
        words += [f"--only {self.only}"] if self.only else []
        words += [f"--from {self.start}"] if self.start else []
        words += [f"--until {self.until}"] if self.until else []
        words += [f"--version {version}" for version in self.versions]
        words += [f"--accept {stage}" for stage in self.accept]
        return " ".join(words)


CONTINUE = "; continue with: "  # between a cause and the next command


class RunFailed(KontextError):
    """The pipeline did not complete."""


@dataclass(frozen=True)
class PlannedRun:
    """A request with the engine that serves it and the stages it comes to."""

    engine: Engine
    stages: list[PlannedStage]
    forced: tuple[str, ...]


def plan_run(request: Request, seconds: float = float("inf")) -> PlannedRun:
    """The stages of a request, in order. After `seconds` the engine's long stages save and stop.

    Raises KontextError for an unknown recipe or version, or when a stage from before is missing.
    """
    at, ends = places(request.store), time.monotonic() + seconds
    recipe = resolve_recipe(request.recipe, request.overrides, request.store)
    engine = open_engine(recipe, at, "", request.versions, lambda: time.monotonic() > ends)
    for stage in filter(request.accept.__contains__, engine.digests()):  # in the graph's order
        engine.accept(stage, request.command())
    forced: tuple[str, ...] = ()
    if request.force:  # alone it forces all; with --only or --from the stage that they name
        named = request.only or request.start
        forced = (named,) if named else tuple(_part("", "", request.until))
    stages = planned_stages(engine, request.only, request.start, request.until, forced)
    return PlannedRun(engine, stages, forced)


def planned_stages(
    engine: Engine, only: str, start: str, until: str, force: tuple[str, ...]
) -> list[PlannedStage]:
    """The stages to go through, in order; `only`, `start` and `until` may be empty.

    Raises RecipeError where these contradict each other or given weights are not there,
    ArtifactError when a stage they need from before is missing.
    """
    if why := contradiction(only, start, until, force):
        raise RecipeError(why)
    found = engine.plan(only=only or None, from_=start or None, force=force)
    part = _part(only, start, until)
    steps = [step for step in found if step.stage in part]
    engine.require(step.stage for step in steps if not step.reused)
    return steps


def contradiction(only: str, start: str, until: str, force: Sequence[str] = ()) -> str:
    """Why a request can come to nothing, whatever there is already; empty where it cannot."""
    if only and start:
        return f"'only {only}' and 'from {start}' exclude each other"
    part = _part(only, start, until)
    if not part:
        return f"no stage to run: '{until}' comes before '{only or start}'"
    if left := [name for name in force if name not in part]:
        return f"'{left[0]}' is to run again, and is not part of this run ({', '.join(part)})"
    return ""


def _part(only: str, start: str, until: str) -> list[str]:
    """The stages that a request is about, in order."""
    order = list(STAGES)
    first, last = order.index(start) if start else 0, order.index(until) if until else len(order)
    names = downstream(STAGES, only) if only else order[first:]
    return [name for name in names if order.index(name) <= last]


def outcome_line(ran: int, reused: int) -> str:
    """How a run of stages ended well, for its state and the terminal."""
    if not ran:
        return f"nothing to make: all {reused} stages are reused"
    return f"{ran} stage{'s' if ran > 1 else ''} ran, {reused} reused"


def find_report(engine: Engine) -> str:
    """Path of the report of this recipe's evaluate artifact, put in place; empty without one."""
    try:
        return str(export_report(engine.artifact("evaluate"), engine.home))
    except ArtifactError:
        return ""
