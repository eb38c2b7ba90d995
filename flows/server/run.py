"""`kontext run`: through the Prefect server, or in this process."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from flows.names import deployment_name
from flows.server.api import Api, ServerError
from flows.server.serve import describe, up
from flows.server.settings import SERVER_SECONDS
from flows.server.watch import Watch
from kontext.errors import ArtifactError, KontextError
from kontext.stage import LogReporter
from schemas.recipes import Recipe
from tasks.markdown import duration, metrics_line, run_link
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


def run(request: Request, direct: bool, logs: bool, console: Console) -> dict[str, Any]:
    """Run a pipeline to its end.

    Returns what `--json` prints: state, stages with digests, report, run address.

    Raises:
        KontextError: a bad request, or RunFailed with the failing stage, its error and how to
            continue.
    """
    at = places(request.store)
    recipe = resolve_recipe(request.recipe, request.overrides)
    engine = open_engine(recipe, at, versions=request.versions)
    for stage in filter(request.accept.__contains__, engine.digests()):  # in the graph's order
        engine.accept(stage, request.command())
    plan = engine.plan(
        only=request.only or None, from_=request.start or None, force=_forced(request, engine)
    )
    if request.until:
        order = list(engine.digests())
        plan = [step for step in plan if order.index(step.stage) <= order.index(request.until)]
    if direct:
        return _run_here(request, recipe, at, engine, plan, console)
    return _run_on_server(request, at, engine, plan, logs, console)


def _forced(request: Request, engine: Engine) -> tuple[str, ...]:
    """`--force` alone forces all; with --only or --from the stage that they name."""
    if not request.force:
        return ()
    named = request.only or request.start
    return (named,) if named else tuple(engine.digests())


def _run_here(
    request: Request,
    recipe: Recipe,
    at: Places,
    engine: Engine,
    plan: list[PlannedStage],
    console: Console,
) -> dict[str, Any]:
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    log = logging.getLogger("kontext")
    log.setLevel(logging.INFO)
    forced = _forced(request, engine)
    stages = []
    for step in plan:
        try:
            outcome = engine.run_stage(step.stage, LogReporter(log), force=step.stage in forced)
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


def _run_on_server(
    request: Request,
    at: Places,
    engine: Engine,
    plan: list[PlannedStage],
    logs: bool,
    console: Console,
) -> dict[str, Any]:
    running = up(at, say=lambda text: console.print(text, style="dim"))
    where = describe(running)
    api = Api(where["api"].removesuffix("/api"), patience=SERVER_SECONDS)
    options = {
        "recipe": request.recipe,
        "overrides": list(request.overrides),
        "only": request.only or "all",
        "start": request.start or "all",
        "until": request.until or "all",
        "versions": list(request.versions),
        "force": list(_forced(request, engine)),
        "store": at.store,
    }
    tags = ["kontext", request.recipe]
    submitted = api.create_run(deployment_name("pipeline"), {"options": options}, tags)
    url = f"{api.url}{run_link(submitted['id'])}"
    console.print(f"run     {url}", style="dim", soft_wrap=True)
    watch = Watch(api, submitted["id"], plan, console, logs)
    try:
        finished = watch.follow()
        if _never_began(finished):
            console.print("the worker could not start the run: once more", style="dim")
            api.set_state(submitted["id"], "SCHEDULED", "AwaitingRetry", force=True)
            finished = watch.follow()
    except KeyboardInterrupt:
        _cancel(api, submitted["id"])
        raise RunFailed(f"cancelled; continue with: {request.command()}") from None
    report = find_report(engine, at)
    console.print(f"\nreport  {report or 'none'}", soft_wrap=True)
    console.print(f"prefect {where['ui']}", soft_wrap=True)
    console.print(f"run     {url}", soft_wrap=True)
    if finished["state_type"] != "COMPLETED":
        state = finished["state"]
        message = (state.get("message") or state["name"]).partition(". ")[0].strip()
        raise RunFailed(f"{message}; continue with: {request.command()}")
    digests = engine.digests()
    stages = [
        {"stage": name, "digest": digests[name], "reused": line.state == "reused"}
        for name, line in watch.lines.items()
    ]
    return {"state": "COMPLETED", "stages": stages, "report": report, "run": url}


def _never_began(run: dict[str, Any]) -> bool:
    """A worker that meets a busy server (SQLite locks) crashes the run before it starts it."""
    message = str(run["state"].get("message") or "")
    return run["state_type"] == "CRASHED" and message.startswith("Failed to submit flow run")


def _cancel(api: Api, run_id: str) -> None:
    try:
        api.set_state(run_id, "CANCELLING", "Cancelling", "cancelled from the terminal")
    except ServerError as error:
        raise RunFailed(f"interrupted, and the run could not be cancelled: {error}") from error


def find_report(engine: Engine, at: Places) -> str:
    """Path of the report of this recipe's evaluate artifact, put in place; empty without one."""
    try:
        return str(export_report(engine.artifact("evaluate"), at.home))
    except ArtifactError:
        return ""
