"""What a command works on, opened from its `--store`, `--recipe` and `--set`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from kontext.errors import RecipeError

if TYPE_CHECKING:
    from kontext.engine.run import Engine
    from kontext.store.artifacts.artifact_store import ArtifactStore
    from kontext.store.catalog.catalog import Catalog
    from kontext.store.objects import ObjectStore


def artifacts(store: str) -> ArtifactStore:
    """The artifacts of the environment's store, or of `store`."""
    from tasks.workspace import open_artifacts, places

    return open_artifacts(places(store))


def catalog(store: str) -> Catalog:
    """The environment's catalog, for the data of its store or of `store`."""
    from tasks.workspace import open_catalog, places

    return open_catalog(places(store))


def objects(store: str) -> ObjectStore:
    """The environment's store itself, or `store`."""
    from kontext.store.objects import open_store
    from tasks.workspace import places

    return open_store(places(store).store)


def check_sets(recipe: str, overrides: list[str] | None) -> None:
    """Raise typer.BadParameter (exit 2) where `--set` does not fit the recipe."""
    from tasks.workspace import resolve_recipe

    try:
        resolve_recipe(recipe, overrides or [])
    except RecipeError as error:
        raise typer.BadParameter(str(error), param_hint="--set") from error


def engine(recipe: str, overrides: list[str] | None, store: str) -> Engine:
    """The engine for a recipe with its changes. Raises typer.BadParameter for bad ones."""
    from tasks.workspace import open_engine, places, resolve_recipe

    check_sets(recipe, overrides)
    return open_engine(resolve_recipe(recipe, overrides or []), places(store))


def prelude(at: str, store: str) -> str:
    """The SQL that attaches the environment's catalog to any DuckDB.

    Args:
        at: a dataset version or a snapshot number; empty: now.

    Raises:
        CatalogError: no catalog, or no such version.
    """
    from kontext.store.catalog.prelude import prelude as attach
    from tasks.workspace import places

    found = catalog(store)
    found.connect().close()  # one clear line now instead of SQL errors later
    snapshot = found.snapshot(at) if at else None
    return attach(places(store).catalog, objects(store).url, snapshot)
