"""`kontext use`: which model or dataset commands take where none is named."""

from typing import Annotated

import typer

from flows.cli.shared import opened
from flows.cli.shared.options import Json, Panel, Store
from flows.cli.shared.show import print_json, print_table
from kontext.errors import ArtifactError

PLACE = (Panel.MODELS, 5)


def use(
    name: Annotated[str, typer.Argument(help="model@NAME or dataset@NAME; empty: list both.")] = "",
    forget: Annotated[
        bool, typer.Option("--forget", help="Take what was made last again: model or dataset.")
    ] = False,
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Choose the model or dataset that this home takes where a command names none."""
    from kontext.store.artifacts import defaults

    artifacts, home = opened.artifacts(store), opened.home()
    kind, at, _ = name.partition("@")
    if name and (kind not in defaults.KINDS or (not at and not forget)):
        raise typer.BadParameter("give model@NAME or dataset@NAME")
    if name:
        found = None if forget else defaults.named(artifacts, kind, name)
        if not forget and found is None:
            there = [t for t in sorted(artifacts.tags()) if t.split("@")[0] in defaults.KINDS[kind]]
            raise ArtifactError(f"no {name} (known: {', '.join(there) or 'none'})")
        defaults.choose(home, kind, found.name if found else None)
    rows = []
    for each in defaults.KINDS:
        try:
            rows.append((each, str(defaults.default(artifacts, each, home))))
        except ArtifactError as error:
            rows.append((each, str(error)))
    print_json(dict(rows)) if as_json else print_table(rows)
