"""`kontext run`: the pipeline, on the Prefect server or in this process."""

from typing import Annotated

import typer

from flows.cli.shared import opened, own_data
from flows.cli.shared.options import (
    Accept,
    From,
    Json,
    Only,
    Own,
    OwnName,
    Panel,
    Recipe,
    Sets,
    Store,
    Until,
    Version,
)
from flows.cli.shared.show import dim, print_json
from kontext.errors import Stopped

PLACE = (Panel.RUN, 1)


def run(
    recipe: Recipe = "demo",
    overrides: Sets = None,
    source: Own = None,
    name: OwnName = "",
    store: Store = "",
    only: Only = "",
    start: From = "",
    until: Until = "",
    version: Version = None,
    accept: Accept = None,
    force: Annotated[
        bool, typer.Option(help="Run again what is done (with --only or --from: that stage).")
    ] = False,
    direct: Annotated[bool, typer.Option(help="Run in this process, without Prefect.")] = False,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0, help="With --direct: seconds after which to save and end with exit code 75."
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No log lines.")] = False,
    as_json: Json = False,
) -> None:
    """Run the pipeline. What is done is reused; a failed run continues where it stopped."""
    from tasks.request import Request, contradiction

    if why := contradiction(only, start, until):
        raise typer.BadParameter(why)
    if seconds is not None and not direct:
        raise typer.BadParameter("--seconds needs --direct")
    own = own_data.overrides(source, name, recipe, store)
    overrides = opened.absolute_sources([*own, *(overrides or ())])
    chosen = opened.changed_recipe(recipe, overrides, store)  # what does not fit is bad usage
    opened.at(store, write=True)
    recipe = opened.reference(recipe, overrides, store)
    dim(f"recipe {chosen.name}: dataset {chosen.shard.dataset}, model {chosen.publish.name}")
    if source:
        dim(own_data.shapes(chosen))
    from rich.console import Console

    request = Request(
        recipe, overrides or (), store, only, start, force, until, version or (), accept or ()
    )
    console = Console(stderr=as_json)
    if direct:
        from flows.cli.shared.direct import run_direct

        result = run_direct(request, float("inf") if seconds is None else seconds, console)
    else:
        from flows.server.run import run as run_on_server

        result = run_on_server(request, not quiet, console)
    if as_json:
        print_json(result)
    if result["state"] == "STOPPED":
        raise typer.Exit(Stopped.exit_code)
