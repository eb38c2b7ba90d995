"""`kontext report`: where the report of the latest evaluation is."""

import typer

from flows.cli.shared import opened
from flows.cli.shared.options import Panel, Recipe, Sets, Store
from kontext.errors import KontextError

PLACE = (Panel.RUN, 4)


def report(recipe: Recipe = "demo", overrides: Sets = None, store: Store = "") -> None:
    """Print the path of the report of a recipe's latest evaluation."""
    from tasks.request import find_report

    found = find_report(opened.engine(recipe, overrides, store))
    if not found:
        raise KontextError(f"no report yet: `kontext run --recipe {recipe}` makes one")
    typer.echo(found)
