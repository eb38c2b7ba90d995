"""`kontext refresh`, `backfill`, `nightly` and `retention`: submit a deployment's run and wait."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer

from kontext.errors import KontextError

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Store = Annotated[str, typer.Option("--store", help="file:///folder or s3://bucket/prefix.")]
Recipe = Annotated[str, typer.Option("--recipe", "-r", help="Named recipe.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", help="Recipe change as section.key=value; repeatable."),
]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (refresh, backfill, nightly, retention):
        app.command()(command)


def refresh(
    recipe: Recipe = "demo",
    overrides: Sets = None,
    store: Store = "",
    rescan: Annotated[
        bool, typer.Option(help="Read the sources although nothing changed.")
    ] = False,
    train: Annotated[bool, typer.Option(help="Train on a new version (an automation).")] = False,
    as_json: Json = False,
) -> None:
    """Read the sources again and commit a new dataset version."""
    form = {"recipe": recipe, "overrides": overrides or [], "rescan": rescan, "train": train}
    _submit("refresh", form, store, as_json)


def backfill(
    recipe: Recipe = "demo",
    overrides: Sets = None,
    store: Store = "",
    which: Annotated[
        str, typer.Option(help="missing, failed, 'missing or failed' or all.")
    ] = "missing or failed",
    partition: Annotated[list[str] | None, typer.Option(help="Source; repeatable.")] = None,
    at_once: Annotated[int, typer.Option(min=1, max=16, help="Side by side.")] = 2,
    as_json: Json = False,
) -> None:
    """Run the sources of a recipe one by one, each into a dataset of its own."""
    form = {
        "recipe": recipe,
        "overrides": overrides or [],
        "which": which,
        "partitions": partition or [],
        "at_once": at_once,
    }
    _submit("backfill", form, store, as_json)


def nightly(
    model: Annotated[str, typer.Argument(help="Tag of a published model.")],
    tolerance: Annotated[float, typer.Option(help="Fall of a success rate that is borne.")] = 0.1,
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Evaluate a published model again; fails when it is worse than when it was published."""
    _submit("nightly-evaluation", {"model": model, "tolerance": tolerance}, store, as_json)


def retention(
    delete: Annotated[bool, typer.Option("--delete", help="Really delete.")] = False,
    grace_days: Annotated[int, typer.Option(min=1, help="Keep what is younger.")] = 7,
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Remove what no tag needs. A dry run without --delete."""
    _submit("retention", {"delete": delete, "grace_days": grace_days}, store, as_json)


def _submit(flow: str, form: dict[str, Any], store: str, as_json: bool) -> None:
    from flows.api import Api
    from flows.names import deployment_name
    from flows.serve import describe, up
    from flows.settings import SERVER_SECONDS
    from tasks.markdown import run_link
    from tasks.workspace import places

    running = up(places(store), say=lambda text: typer.echo(text, err=True))
    api = Api(describe(running)["api"].removesuffix("/api"), patience=SERVER_SECONDS)
    options = {**form, "store": store}
    run = api.create_run(deployment_name(flow), {"options": options}, ["kontext", flow])
    typer.echo(f"run     {api.url}{run_link(run['id'])}", err=True)
    while run["state_type"] not in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
        time.sleep(1.0)
        run = api.run(run["id"])
    message = str((run.get("state") or {}).get("message") or run["state_name"])
    if run["state_type"] != "COMPLETED":
        raise KontextError(f"{flow}: {message.splitlines()[0]}")
    if as_json:
        typer.echo(json.dumps({"state": run["state_type"], "message": message, "run": run["id"]}))
    else:
        typer.echo(message)
