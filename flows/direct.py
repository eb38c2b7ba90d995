"""`kontext run --direct`: the stages in this process, without Prefect and without a network.

It needs few packages: a machine that only trains has torch, numpy, safetensors, pydantic, pyarrow,
pillow, tokenizers and typer (docs/h200.md). Imports of anything else belong elsewhere.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from kontext.errors import ArtifactError, KontextError, Stopped
from kontext.stage import LogReporter
from tasks.markdown import duration, metrics_line
from tasks.report import export_report
from tasks.workspace import Places, open_engine, places, resolve_recipe

if TYPE_CHECKING:
    from kontext.engine import Engine
    from kontext.states import PlannedStage


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    recipe: str
    overrides: tuple[str, ...] = ()
    store: str = ""
    only: str = ""
    start: str = ""
    force: bool = False
    until: str = ""
    versions: tuple[str, ...] = ()
    accept: tuple[str, ...] = ()  # stages to take as they are, although their code changed

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


class RunFailed(KontextError):
    """The pipeline did not complete."""


@dataclass(frozen=True)
class Planned:
    """A request with the engine that serves it and the stages it comes to."""

    at: Places
    engine: Engine
    stages: list[PlannedStage]
    forced: tuple[str, ...]


def plan(request: Request, seconds: float = float("inf")) -> Planned:
    """The stages of a request, in order.

    Args:
        seconds: after so many the engine's long stages save and stop.

    Raises:
        KontextError: an unknown recipe or version, or a stage from before is missing.
    """
    at, ends = places(request.store), time.monotonic() + seconds
    recipe = resolve_recipe(request.recipe, request.overrides)
    engine = open_engine(
        recipe, at, versions=request.versions, stop=lambda: time.monotonic() > ends
    )
    for stage in filter(request.accept.__contains__, engine.digests()):  # in the graph's order
        engine.accept(stage, request.command())
    forced: tuple[str, ...] = ()
    if request.force:  # alone it forces all; with --only or --from the stage that they name
        named = request.only or request.start
        forced = (named,) if named else tuple(engine.digests())
    stages = engine.plan(only=request.only or None, from_=request.start or None, force=forced)
    if request.until:
        order = list(engine.digests())
        stages = [step for step in stages if order.index(step.stage) <= order.index(request.until)]
    return Planned(at, engine, stages, forced)


def run_direct(request: Request, seconds: float, console: Console) -> dict[str, Any]:
    """Run a pipeline to its end, or for `seconds`.

    Returns what `--json` prints: state (COMPLETED, or STOPPED where the time was up), stages with
    digests, report.

    Raises:
        KontextError: a bad request, or RunFailed with the failing stage, its error and how to
            continue.
    """
    planned = plan(request, seconds)
    engine, at = planned.engine, planned.at
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    log = logging.getLogger("kontext")
    log.setLevel(logging.INFO)
    stages: list[dict[str, Any]] = []
    for step in planned.stages:
        worked = any(not stage["reused"] for stage in stages)
        if worked and engine.stop() and not step.reused:  # each call does something
            return _stopped(f"before stage '{step.stage}'", stages, console)
        forced = step.stage in planned.forced
        try:
            outcome = engine.run_stage(step.stage, LogReporter(log), force=forced)
        except Stopped as stopped:
            return _stopped(f"stage '{step.stage}' {stopped}", stages, console)
        except (KontextError, OSError) as error:  # OSError: a full disk, for example
            raise RunFailed(
                f"stage '{step.stage}' failed: {error}; continue with: {request.command()} --direct"
            ) from error
        word = "[cyan]♻ reused[/]" if outcome.reused else "[green]✔ done[/]"
        shown = escape(metrics_line(outcome.manifest.metrics))
        console.print(f"{word} {step.stage:18} {duration(outcome.seconds)}  {shown}")
        stages.append({"stage": step.stage, "digest": outcome.digest, "reused": outcome.reused})
    report = find_report(engine, at)
    console.print(f"\nreport  {report or 'none yet: stage evaluate is not part of this run'}")
    return {"state": "COMPLETED", "stages": stages, "report": report, "run": ""}


def _stopped(where: str, stages: list[dict[str, Any]], console: Console) -> dict[str, Any]:
    console.print(f"the time is up ({where}): the same command goes on", soft_wrap=True)
    return {"state": "STOPPED", "stages": stages, "report": "", "run": ""}


def find_report(engine: Engine, at: Places) -> str:
    """Path of the report of this recipe's evaluate artifact, put in place; empty without one."""
    try:
        return str(export_report(engine.artifact("evaluate"), at.home))
    except ArtifactError:
        return ""
