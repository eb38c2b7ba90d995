"""`kontext backfill`: missing sources, by a run of the deployment `backfill`."""

from typing import Annotated

import typer

from flows.cli.shared.opened import reference
from flows.cli.shared.options import Json, Panel, Recipe, Sets, Store
from flows.cli.shared.submit import submit

PLACE = (Panel.SERVER, 4)


def backfill(
    recipe: Recipe = "demo",
    overrides: Sets = None,
    store: Store = "",
    which: Annotated[
        str, typer.Option(help="Which sources: missing, failed, 'missing or failed' or all.")
    ] = "missing or failed",
    partition: Annotated[
        list[str] | None, typer.Option(help="Source to run; repeatable. By default all.")
    ] = None,
    at_once: Annotated[int, typer.Option(min=1, max=16, help="Runs at the same time.")] = 2,
    as_json: Json = False,
) -> None:
    """Run the sources of a recipe one by one, each into a dataset of its own."""
    options = {
        "recipe": reference(recipe, overrides, store),
        "overrides": overrides or [],
        "which": which,
        "partitions": partition or [],
        "at_once": at_once,
    }
    submit("backfill", options, store, as_json)
