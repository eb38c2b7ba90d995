"""`kontext catalog …`: the catalog as a whole: migrate, rebuild, move, compact, export, prelude."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.cli_artifacts import Grace, period
from flows.cli_data import At, Json, Store, open_catalog

app = typer.Typer(
    help="Migrate, rebuild, move, compact or export the catalog, or attach it elsewhere."
)


@app.command()
def migrate(store: Store = "") -> None:
    """Bring tables and views to this version of kontext (writers do it by themselves)."""
    from kontext.store.migrations import SCHEMA_VERSION

    catalog = open_catalog(store)
    catalog.migrate()
    typer.echo(f"{catalog}: schema version {SCHEMA_VERSION}")


@app.command()
def rebuild(store: Store = "", as_json: Json = False) -> None:
    """Write an empty catalog again from the manifests in the store: runs and dataset versions."""
    from kontext.remake import rebuild_catalog
    from kontext.stages import STAGES
    from tasks.workspace import open_artifacts, places

    at = places(store)
    found = rebuild_catalog(open_artifacts(at), open_catalog(store), at.home, STAGES)
    if as_json:
        typer.echo(json.dumps(vars(found), indent=1))
        return
    versions = ", ".join(found.datasets) or "none"
    typer.echo(f"{found.runs} runs recorded; dataset versions: {versions}")
    for ref in found.different:
        typer.echo(f"{ref}: its dataset came out with another digest", err=True)


@app.command()
def move(store: Store = "") -> None:
    """Tell a catalog that was copied with its store where its data files lie now."""
    catalog = open_catalog(store)
    catalog.move()
    typer.echo(f"{catalog} reads {len(catalog.datasets())} dataset versions")


@app.command()
def compact(
    delete: Annotated[
        bool, typer.Option("--delete/--dry-run", help="Really do it, or only say what would go.")
    ] = False,
    grace: Grace = "7d",
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Expire snapshots that are no dataset version, merge small files, remove unused ones."""
    done = open_catalog(store).compact(period(grace), dry_run=not delete)
    if as_json:
        typer.echo(json.dumps({**vars(done), "deleted": delete}, indent=1))
        return
    word = "" if delete else "would go (give --delete): "
    typer.echo(
        f"{word}{done.snapshots} snapshots expired, {done.merged} files merged, "
        f"{done.files} unused files removed"
    )


@app.command()
def export(
    version: Annotated[str, typer.Argument(help="NAME@vN, or NAME for its latest version.")],
    store: Store = "",
) -> None:
    """Write a dataset version as plain Parquet, which any tool reads, and say where."""
    from kontext.store.export import export_version, find_version
    from kontext.store.objects import folder_url, open_store
    from tasks.workspace import places

    catalog = open_catalog(store)
    objects = open_store(places(store).store)
    prefix = export_version(catalog, objects, find_version(catalog, version))
    typer.echo(folder_url(objects.url, prefix.rstrip("/")))


@app.command()
def prelude(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to a file.")] = None,
    at: At = "",
    store: Store = "",
) -> None:
    """Print the SQL that attaches the catalog to any DuckDB client, read-only."""
    text = prelude_text(at, store)
    if output is None:
        typer.echo(text, nl=False)
    else:
        output.write_text(text)
        output.chmod(0o600)  # a Postgres password may be in it


def prelude_text(at: str, store: str) -> str:
    """The prelude of the environment's catalog. Raises CatalogError for an unknown version."""
    from kontext.store.objects import open_store
    from kontext.store.prelude import prelude as make
    from tasks.workspace import places

    where = places(store)
    catalog = open_catalog(store)
    catalog.connect().close()  # one clear line now instead of SQL errors later
    snapshot = catalog.snapshot(at) if at else None
    return make(where.catalog, open_store(where.store).url, snapshot)
