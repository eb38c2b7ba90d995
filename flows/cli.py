"""The `kontext` command. Every command answers `--help`; data is printed as JSON with `--json`.

Exit codes: 0 done, 1 failed (one clear line), 2 bad usage, 3 refused by the safety policy,
75 the time was up (run it again).
Heavy imports happen inside the commands, so that `kontext --help` answers at once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Annotated, Any

import typer

from flows import (
    cli_artifacts,
    cli_catalog,
    cli_data,
    cli_edit,
    cli_export_store,
    cli_lora,
    cli_ops,
    cli_plan,
    cli_safety,
    cli_weights,
)
from kontext.errors import KontextError, RecipeError, Stopped

app = typer.Typer(
    name="kontext",
    help="Relational pairs, safety, shards, SQL, flow training, LADD and evaluation under Prefect.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _recipe(value: str) -> str:
    from schemas.recipes import RECIPES

    if value not in RECIPES:
        raise typer.BadParameter(f"unknown recipe '{value}' (known: {', '.join(RECIPES)})")
    return value


def _stage(value: str) -> str:
    from kontext.stages import STAGES

    if value and value not in STAGES:
        raise typer.BadParameter(f"unknown stage '{value}' (known: {', '.join(STAGES)})")
    return value


def _stages(values: list[str] | None) -> list[str] | None:
    return None if values is None else [_stage(value) for value in values]


def _check_overrides(recipe: str, overrides: list[str] | None) -> None:
    from tasks.workspace import resolve_recipe

    try:
        resolve_recipe(recipe, overrides or [])
    except RecipeError as error:
        raise typer.BadParameter(str(error), param_hint="--set") from error


Recipe = Annotated[
    str, typer.Option("--recipe", "-r", help="Named recipe (demo, ci, h200).", callback=_recipe)
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", help="Recipe change as section.key=value; repeatable."),
]
Store = Annotated[str, typer.Option("--store", help="file:///folder or s3://bucket/prefix.")]


@app.command()
def up(
    port: Annotated[
        int | None, typer.Option(help="Port of the server (else 4200 or free).")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    foreground: Annotated[
        bool, typer.Option("--foreground", "-f", help="Stay, restart what dies, stop on Ctrl-C.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Start the Prefect server, workers and deployments, or attach to what is up."""
    from flows.serve import describe
    from flows.serve import up as bring_up

    def say(text: str) -> None:
        typer.echo(text, err=True)

    running = bring_up(port=port, host=host, say=say)
    where = describe(running)
    typer.echo(json.dumps(where, indent=1) if as_json else f"Prefect is up: {where['ui']}")
    if foreground:
        _supervise(say)


def _supervise(say: Any) -> None:
    from flows.serve import down as bring_down
    from flows.serve import up as bring_up

    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda got, _: stopped.append(got))
    while not stopped:
        time.sleep(2)
        if not stopped:
            bring_up(say=say)
    bring_down(say=say)


@app.command()
def down() -> None:
    """Stop the server and the workers that `kontext up` started."""
    from flows.serve import down as bring_down

    stopped = bring_down(say=lambda text: typer.echo(text, err=True))
    typer.echo("stopped" if stopped else "nothing was running")


@app.command()
def run(
    recipe: Recipe = "demo",
    overrides: Sets = None,
    store: Store = "",
    only: Annotated[
        str,
        typer.Option(help="This stage and whatever depends on it.", callback=_stage),
    ] = "",
    start: Annotated[
        str, typer.Option("--from", help="This stage and all later ones.", callback=_stage)
    ] = "",
    until: Annotated[str, typer.Option(help="Stop after this stage.", callback=_stage)] = "",
    version: Annotated[
        list[str] | None,
        typer.Option(help="Artifact to take as it is: stage/digest or a tag; repeatable."),
    ] = None,
    accept: Annotated[
        list[str] | None,
        typer.Option(
            help="Stage whose latest artifact is taken as it is although its code changed; "
            "repeatable.",
            callback=_stages,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option(help="Run again what is done (with --only or --from: that stage).")
    ] = False,
    direct: Annotated[bool, typer.Option(help="In this process, without Prefect.")] = False,
    seconds: Annotated[
        float | None,
        typer.Option(min=0, help="With --direct: save and end with code 75 after so many."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No log lines.")] = False,
    as_json: Json = False,
) -> None:
    """Run the pipeline. What is done is reused; a failed run continues where it stopped."""
    if only and start:
        raise typer.BadParameter("--only and --from exclude each other")
    if seconds is not None and not direct:
        raise typer.BadParameter("--seconds needs --direct")
    _check_overrides(recipe, overrides)
    from rich.console import Console

    from flows.direct import Request, run_direct

    request = Request(
        recipe,
        tuple(overrides or ()),
        store,
        only,
        start,
        force,
        until,
        tuple(version or ()),
        tuple(accept or ()),
    )
    console = Console(stderr=as_json)
    if direct:
        result = run_direct(request, float("inf") if seconds is None else seconds, console)
    else:
        from flows.run import run as run_pipeline

        result = run_pipeline(request, not quiet, console)
    if as_json:
        typer.echo(json.dumps(result, indent=1))
    if result["state"] == "STOPPED":
        raise typer.Exit(Stopped.exit_code)


@app.command()
def stages(as_json: Json = False) -> None:
    """List the stages, their inputs and pools."""
    from kontext.stages import STAGES

    rows = [
        {"stage": s.name, "inputs": list(s.inputs), "pool": s.pool, "summary": s.summary}
        for s in STAGES.values()
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        typer.echo(f"{row['stage']:18} {row['pool']:4} {row['summary']}")


@app.command()
def status(
    recipe: Recipe = "demo",
    overrides: Sets = None,
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Show which stages are done, stale, missing or running, and why; schedules; services."""
    _check_overrides(recipe, overrides)
    from flows.serve import connect
    from flows.serve import status as services
    from flows.status import schedules, stage_states
    from tasks.workspace import open_engine, places, resolve_recipe

    at = places(store)
    api = connect(at)
    found = stage_states(open_engine(resolve_recipe(recipe, overrides or []), at), api)
    planned = schedules(api) if api else []
    if as_json:
        data = {
            "stages": [vars(s) for s in found],
            "schedules": planned,
            "services": [vars(s) for s in services(at)],
        }
        typer.echo(json.dumps(data, indent=1))
        return
    for stage in found:
        typer.echo(f"{stage.stage:18} {stage.digest}  {stage.state:8} {stage.why}")
    for row in planned:
        due = f", next {row['next']} UTC" if row["next"] else ""
        typer.echo(f"{'schedule ' + row['name']:18} {row['state']:8} {row['schedule']}{due}")
    typer.echo("")
    for service in services(at):
        typer.echo(f"{service.name:18} {service.state:8} {service.detail}")


@app.command()
def report(recipe: Recipe = "demo", overrides: Sets = None, store: Store = "") -> None:
    """Print the path of the report of a recipe's latest evaluation."""
    _check_overrides(recipe, overrides)
    from flows.direct import find_report
    from tasks.workspace import open_engine, places, resolve_recipe

    at = places(store)
    found = find_report(open_engine(resolve_recipe(recipe, overrides or []), at), at)
    if not found:
        raise KontextError(f"no report yet: `kontext run --recipe {recipe}` makes one")
    typer.echo(found)


@app.command()
def doctor(
    weights: Annotated[
        str, typer.Argument(help="Weights file, folder or artifact to look at instead.")
    ] = "",
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Check what is here and what is missing, with a mend for each; or look at WEIGHTS."""
    from flows.doctor import check_all, render

    if weights:
        cli_weights.doctor_weights(weights, store, as_json)
        return
    checks = check_all()
    if as_json:
        typer.echo(json.dumps([vars(check) for check in checks], indent=1))
    else:
        typer.echo(render(checks))
    if any(check.state == "fail" for check in checks):
        raise typer.Exit(1)


cli_data.add_to(app)
cli_plan.add_to(app)
cli_export_store.add_to(app)
app.add_typer(cli_artifacts.app, name="artifacts")
app.add_typer(cli_catalog.app, name="catalog")
app.add_typer(cli_safety.app, name="safety")
app.add_typer(cli_lora.app, name="lora")
cli_edit.add_to(app)
cli_ops.add_to(app)
cli_weights.add_to(app)


def main() -> None:
    """Entry point: user errors end in one line, never in a traceback."""
    try:
        app()
    except KontextError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # `kontext … | head`: nobody listens any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


if __name__ == "__main__":
    main()
