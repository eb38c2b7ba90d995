"""`kontext refresh`: new data, by a run of the deployment `refresh`."""

from typing import Annotated

import typer

from flows.cli.shared.opened import reference
from flows.cli.shared.options import Json, Panel, Recipe, Sets, Store
from flows.cli.shared.submit import submit

PLACE = (Panel.SERVER, 3)


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
    recipe = reference(recipe, overrides, store)
    options = {"recipe": recipe, "overrides": overrides or [], "rescan": rescan, "train": train}
    submit("refresh", options, store, as_json)
