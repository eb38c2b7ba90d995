"""What a command works on, opened from its `--store`, `--recipe` and `--set`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from flows.cli.shared.show import say
from kontext.errors import RecipeError

if TYPE_CHECKING:
    from kontext.engine.run import Engine
    from kontext.store.artifacts.artifact_store import ArtifactStore
    from kontext.store.catalog.catalog import Catalog
    from kontext.store.objects import ObjectStore
    from schemas.recipe import Recipe


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


@contextmanager
def exported_to(output: str, store: str) -> Iterator[ArtifactStore]:
    """An empty artifact store that is `output` at the end: a folder, NAME.tar or a store's URL."""
    from kontext.store.artifacts.archive import is_archive, write_archive
    from kontext.store.artifacts.artifact_store import ArtifactStore
    from kontext.store.objects import open_store

    with tempfile.TemporaryDirectory(dir=scratch(store)) as temporary:
        where = f"{temporary}/store" if is_archive(output) else output
        yield ArtifactStore(open_store(where), Path(temporary, "cache"))
        if is_archive(output):
            write_archive(Path(where), Path(output))


def scratch(store: str) -> Path:
    """Folder for files that go again."""
    from tasks.workspace import places

    folder = places(store).home / "scratch"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def changed_recipe(recipe: str, overrides: list[str] | None, store: str) -> Recipe:
    """The recipe, a file's too, with its changes.

    Raises typer.BadParameter (exit 2) where a name or a change does not fit, RecipeError for a
    file that is no recipe.
    """
    from schemas.changes import MisfitError, with_overrides
    from tasks.workspace import resolve_recipe

    if is_file(recipe):
        base = _read(recipe)
    else:
        try:
            base = resolve_recipe(recipe, (), store)
        except RecipeError as error:
            raise typer.BadParameter(str(error)) from error
    try:
        return with_overrides(base, overrides or ())
    except MisfitError as error:
        raise typer.BadParameter(str(error), param_hint="--set") from error


def is_file(recipe: str) -> bool:
    """Whether a recipe is given as a YAML file, not by its name."""
    return "/" in recipe or recipe.endswith((".yaml", ".yml"))


def _read(path: str) -> Recipe:
    from schemas.recipe_file import RecipeFileError, read_recipe

    try:
        return read_recipe(Path(path))
    except RecipeFileError as error:
        raise RecipeError(str(error)) from error


def reference(recipe: str, overrides: list[str] | None, store: str) -> str:
    """What other processes know the recipe by, after it was checked with its changes.

    A file is stored first. Whatever the store has is named by its content, so that neither a
    changed file nor a newer recipe of that name changes a run that has begun.
    """
    from kontext.store.recipes import find_recipe, put_recipe
    from schemas.recipes import RECIPES

    changed_recipe(recipe, overrides, store)
    if recipe in RECIPES:
        return recipe
    if not is_file(recipe):
        return find_recipe(objects(store), recipe).reference
    stored = put_recipe(objects(store), _read(recipe))
    say(f"recipe  {recipe} is stored as {stored}")
    return stored


def engine(recipe: str, overrides: list[str] | None, store: str) -> Engine:
    """The engine for a recipe with its changes. Raises like `changed_recipe`."""
    from tasks.workspace import open_engine, places

    return open_engine(changed_recipe(recipe, overrides, store), places(store))


def prelude(at: str, store: str) -> str:
    """The SQL that attaches the environment's catalog to any DuckDB.

    `at` is a dataset version or a snapshot number; empty: now. Raises CatalogError when there is
    no catalog or no such version.
    """
    from kontext.store.lake.connections import prelude as attach
    from tasks.workspace import places

    found = catalog(store)
    found.connect().close()  # one clear line now instead of SQL errors later
    snapshot = found.snapshot(at) if at else None
    return attach(places(store).catalog, objects(store).url, snapshot)
