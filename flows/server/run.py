"""`kontext run` through the Prefect server."""

from typing import Any

from rich.console import Console

from flows.names import deployment_name
from flows.server.api import Api, ServerError
from flows.server.offered import offer_recipes
from flows.server.serve import server_api, up
from flows.server.settings import SERVER_SECONDS
from flows.server.watch import Watch
from schemas.recipes import RECIPES
from tasks.markdown import one_line, run_link
from tasks.request import CONTINUE, Request, RunFailed, find_report, outcome_line, plan_run
from tasks.workspace import places


def run(request: Request, logs: bool, console: Console) -> dict[str, Any]:
    """Run a pipeline on the Prefect server, to its end.

    Returns what `--json` prints: state, stages with digests, report, run address. Raises
    KontextError for a bad request; RunFailed has the failing stage, its error and how to continue.
    """
    planned = plan_run(request)
    at, engine = places(request.store), planned.engine
    running = up(at, say=lambda text: console.print(text, style="dim"))
    api = server_api(at, running, patience=SERVER_SECONDS)
    if request.recipe not in RECIPES:
        offer_recipes(api, engine.objects)
    options = {
        "recipe": request.recipe,
        "overrides": list(request.overrides),
        "only": request.only or "all",
        "start": request.start or "all",
        "until": request.until or "all",
        "versions": list(request.versions),
        "force": list(planned.forced),
        "store": at.store,
    }
    tags = ["kontext", request.recipe]
    submitted = api.create_run(deployment_name("pipeline"), {"options": options}, tags)
    url = f"{api.url}{run_link(submitted['id'])}"
    console.print(f"run     {url}", style="dim", soft_wrap=True)
    watch = Watch(api, submitted["id"], planned.stages, console, logs)
    try:
        finished = watch.follow()
        if _never_began(finished):
            console.print("the worker could not start the run: once more", style="dim")
            api.set_state(submitted["id"], "SCHEDULED", "AwaitingRetry", force=True)
            finished = watch.follow()
    except KeyboardInterrupt:
        _cancel(api, submitted["id"])
        raise RunFailed(f"cancelled; continue with: {request.command()}") from None
    report = find_report(engine)
    reused = sum(line.state == "reused" for line in watch.lines.values())
    if finished["state_type"] == "COMPLETED":
        console.print(f"\n{outcome_line(len(watch.lines) - reused, reused)}")
    console.print(f"report  {report or 'none'}", soft_wrap=True)
    console.print(
        f"prefect {api.url}/v2 (`kontext up` prints an address that logs in)", soft_wrap=True
    )
    console.print(f"run     {url}", soft_wrap=True)
    if finished["state_type"] != "COMPLETED":
        state = finished["state"]
        message = one_line(state.get("message") or state["name"])
        known = CONTINUE in message
        raise RunFailed(message if known else f"{message}{CONTINUE}{request.command()}")
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
