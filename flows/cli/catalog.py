"""`kontext catalog …`: the catalog as a whole: migrate, rebuild, move, compact, export, prelude."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.shared import named, opened
from flows.cli.shared.options import At, Dataset, Delete, Grace, Json, Panel, Store
from flows.cli.shared.show import print_json, print_result, say

PLACE = (Panel.DATA, 8)
app = typer.Typer(
    help="Migrate, rebuild, move, compact or export the catalog, or attach it elsewhere."
)


@app.command()
def migrate(store: Store = "") -> None:
    """Bring tables and views to this version of kontext (writers do it by themselves).

    Then enter what earlier versions did not record: the items of their evaluations.
    """
    from kontext.engine.remake import record_all
    from kontext.store.lake.migrations import SCHEMA_VERSION

    catalog, artifacts = opened.catalog(store, write=True), opened.artifacts(store)
    catalog.migrate()
    found = record_all(artifacts, catalog, artifacts.list("evaluate"))
    typer.echo(f"{catalog}: schema version {SCHEMA_VERSION}; {found} evaluations entered")


@app.command()
def rebuild(store: Store = "", as_json: Json = False) -> None:
    """Write an empty catalog again from the store: runs, dataset versions, votes."""
    from kontext.engine.remake import rebuild_catalog
    from kontext.stages import STAGES
    from kontext.store.votes import enter

    catalog = opened.catalog(store, write=True)
    found = rebuild_catalog(opened.artifacts(store), catalog, opened.home(), STAGES)
    votes = enter(opened.objects(store), catalog)
    if as_json:
        print_json({**vars(found), "votes": votes})
        return
    versions = ", ".join(found.datasets) or "none"
    cast = f"; {votes} votes" if votes else ""
    typer.echo(f"{found.runs} runs recorded; dataset versions: {versions}{cast}")
    for ref in found.different:
        say(f"{ref}: its dataset came out with another digest")


@app.command()
def move(store: Store = "") -> None:
    """Tell a catalog that was copied with its store where its data files lie now."""
    catalog = opened.catalog(store)
    catalog.move()
    typer.echo(f"{catalog} reads {len(catalog.datasets())} dataset versions")


@app.command()
def compact(
    delete: Delete = False,
    grace: Grace = "7d",  # type: ignore[assignment] # typer parses it
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Expire snapshots that are no dataset version, merge small files, remove unused ones."""
    done = opened.catalog(store).compact(grace, dry_run=not delete)
    word = "" if delete else "would go (give --delete): "
    text = (
        f"{word}{done.snapshots} snapshots expired, {done.merged} files merged, "
        f"{done.files} unused files removed"
    )
    print_result({**vars(done), "deleted": delete}, text, as_json)


@app.command()
def export(
    version: Annotated[str, typer.Argument(help="NAME@vN, or NAME for its latest version.")],
    store: Store = "",
) -> None:
    """Write a dataset version as plain Parquet, which any tool reads, and say where."""
    from kontext.store.catalog.export import export_version
    from kontext.store.catalog.versions import find_version
    from kontext.store.objects import folder_url

    catalog, objects = opened.catalog(store), opened.objects(store)
    prefix = export_version(catalog, objects, find_version(catalog.datasets(), version))
    typer.echo(folder_url(objects.url, prefix.rstrip("/")))


@app.command()
def prelude(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to a file.")] = None,
    at: At = "",
    dataset: Dataset = "",
    store: Store = "",
) -> None:
    """Print the SQL that attaches the catalog to any DuckDB client, read-only."""
    text = opened.prelude(at, store, dataset or partial(named.dataset, at, store))
    if output is None:
        typer.echo(text, nl=False)
    else:
        output.write_text(text)
        output.chmod(0o600)  # a Postgres password may be in it
