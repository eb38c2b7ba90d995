"""`kontext run --direct`: the stages in this process, without Prefect and without a network.

It needs few packages: a machine that only trains has torch, numpy, safetensors, pydantic, pyarrow,
pillow, tokenizers and typer (docs/h200.md). Imports of anything else belong elsewhere.
"""

import logging
from typing import Any

from rich.console import Console
from rich.markup import escape

from kontext.engine.stage import Reporter
from kontext.errors import KontextError, Stopped
from kontext.stages import STAGES
from tasks.markdown import duration, metrics_line
from tasks.request import Request, RunFailed, find_report, outcome_line, plan_run


def run_direct(request: Request, seconds: float, console: Console) -> dict[str, Any]:
    """Run a pipeline to its end, or for `seconds`.

    Returns what `--json` prints: state (COMPLETED, or STOPPED where the time was up), stages with
    digests, report. Raises KontextError for a bad request; RunFailed has the failing stage, its
    error and how to continue.
    """
    planned = plan_run(request, seconds)
    engine = planned.engine
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
            outcome = engine.run_stage(step.stage, Reporter(log), force=forced)
        except Stopped as stopped:
            return _stopped(f"stage '{step.stage}' {stopped}", stages, console)
        except (KontextError, OSError) as error:  # OSError: a full disk, for example
            raise RunFailed(
                f"stage '{step.stage}' failed: {error}; continue with: {request.command()} --direct"
            ) from error
        word = "[cyan]♻ reused[/]" if outcome.reused else "[green]✔ done[/]"
        shown = escape(metrics_line(outcome.manifest.metrics, STAGES[step.stage].figures))
        console.print(f"{word} {step.stage:18} {duration(outcome.seconds)}  {shown}")
        stages.append({"stage": step.stage, "digest": outcome.digest, "reused": outcome.reused})
    report = find_report(engine)
    reused = sum(stage["reused"] for stage in stages)
    console.print(f"\n{outcome_line(len(stages) - reused, reused)}")
    console.print(f"report  {report or 'none yet: stage evaluate is not part of this run'}")
    return {"state": "COMPLETED", "stages": stages, "report": report, "run": ""}


def _stopped(where: str, stages: list[dict[str, Any]], console: Console) -> dict[str, Any]:
    console.print(f"the time is up ({where}): the same command goes on", soft_wrap=True)
    return {"state": "STOPPED", "stages": stages, "report": "", "run": ""}
