"""`kontext report`: where the report of an evaluation is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from flows.cli.shared import named, opened
from flows.cli.shared.options import Panel, Recipe, Sets, Store
from flows.cli.shared.show import dim
from kontext.errors import ArtifactError, KontextError

if TYPE_CHECKING:
    from kontext.store.artifacts.defaults import Named

PLACE = (Panel.RUN, 5)


def report(recipe: Recipe = "", overrides: Sets = None, store: Store = "") -> None:
    """Print the path of the report of the default model, or of a recipe's evaluation."""
    from schemas.recipes import DEFAULT
    from tasks.report import export_report
    from tasks.request import find_report

    model = None if recipe or overrides else _published(store)
    if model is not None:
        dim(f"using {model}")
        digest = model.artifact.manifest.inputs["evaluate"]
        evaluated = opened.artifacts(store).open("evaluate", digest)
        typer.echo(export_report(evaluated, opened.home()))
        return
    path = find_report(opened.engine(recipe or DEFAULT, overrides, store))
    if not path:
        raise KontextError(f"no report yet: `kontext run --recipe {recipe or DEFAULT}` makes one")
    typer.echo(path)


def _published(store: str) -> Named | None:
    """The default model, where there is one and it was evaluated (not imported)."""
    try:
        found = named.default_model(store)
    except ArtifactError:
        return None
    return found if "evaluate" in found.artifact.manifest.inputs else None
