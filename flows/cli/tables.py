"""`kontext tables`: what can be asked for."""

from typing import Annotated

import typer

from flows.cli.shared import opened
from flows.cli.shared.options import At, Json, Panel, Store
from flows.cli.shared.show import print_json, print_table
from kontext.errors import CatalogError

PLACE = (Panel.DATA, 3)


def tables(
    name: Annotated[str, typer.Argument(help="One table or view, with its columns.")] = "",
    at: At = "",
    as_json: Json = False,
    store: Store = "",
) -> None:
    """List tables and views with their comments; with a name, its columns."""
    found = opened.catalog(store).tables(at=at or None)
    if name:
        found = [info for info in found if info.name == name]
        if not found:
            raise CatalogError(f"no table or view '{name}'; `kontext tables` lists them")
    if as_json:
        print_json([vars(info) for info in found])
        return
    rows = [(info.name, info.kind, f"{info.rows:,}", info.comment) for info in found]
    print_table(rows, ("name", "kind", "rows", "what it holds"), right=(2,))
    for info in found if name else ():
        typer.echo("")
        print_table(info.columns, ("column", "type", "what it holds"))
