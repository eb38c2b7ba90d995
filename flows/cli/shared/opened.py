"""What a command works on, opened from its `--store`, `--recipe` and `--set`."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from flows.cli.shared.show import say
from kontext.errors import RecipeError
from schemas.changes import json_or_text
from schemas.paths import seen_from
from schemas.sections.weights import weights_seen_from

if TYPE_CHECKING:
    from kontext.engine.run import Engine
    from kontext.store.artifacts.artifact_store import ArtifactStore
    from kontext.store.catalog.catalog import Catalog
    from kontext.store.objects import ObjectStore
    from schemas.recipe import Recipe
    from tasks.workspace import Places


def at(store: str, write: bool = False) -> Places:
    """The places that are there; a command that writes makes a home or store, and says so.

    Raises StoreError where there is none to read, or none can be made.
    """
    from tasks.workspace import existing, made

    return made(store, say) if write else existing(store)


def home() -> Path:
    """The home, which may have yet to be made."""
    from tasks.workspace import places

    return places().home


def artifacts(store: str, write: bool = False) -> ArtifactStore:
    """The artifacts of the environment's store, or of `store`. Raises as `at` does."""
    from tasks.workspace import open_artifacts

    return open_artifacts(at(store, write))


def catalog(store: str, write: bool = False) -> Catalog:
    """The environment's catalog, for the data of its store or of `store`. Raises as `at` does."""
    from tasks.workspace import open_catalog

    return open_catalog(at(store, write))


def objects(store: str) -> ObjectStore:
    """The environment's store itself, or `store`. Raises as `at` does."""
    from kontext.store.objects import open_store

    return open_store(at(store).store)


@contextmanager
def exported_to(output: str, store: str) -> Iterator[ArtifactStore]:
    """An empty artifact store that is `output` at the end: a folder, NAME.tar or a store's URL."""
    from kontext.store.artifacts.archive import is_archive, write_archive
    from kontext.store.artifacts.artifact_store import ArtifactStore
    from kontext.store.objects import open_store

    with tempfile.TemporaryDirectory(dir=scratch()) as temporary:
        where = f"{temporary}/store" if is_archive(output) else output
        yield ArtifactStore(open_store(where), Path(temporary, "cache"))
        if is_archive(output):
            write_archive(Path(where), Path(output))


def scratch() -> Path:
    """Folder for files that go again: the home's, where there is one."""
    if not home().is_dir():
        return Path(tempfile.gettempdir())
    folder = home() / "scratch"
    folder.mkdir(exist_ok=True)
    return folder


def absolute_sources(overrides: Sequence[str] | None) -> list[str]:
    """The changes, with image folders and given weights as absolute paths: the workers run
    somewhere else.
    """
    made = []
    for override in overrides or ():
        key, _, text = override.partition("=")
        if key.partition(".")[0] == "weights":
            made.append(f"{key}={_weights_from_here(text)}")
            continue
        with contextlib.suppress(ValueError):  # what is no JSON is refused elsewhere
            sources = json.loads(text) if key == "ingest.sources" else None
            for source in sources if isinstance(sources, list) else ():
                if isinstance(source, dict) and isinstance(source.get("path"), str):
                    source["path"] = seen_from(Path.cwd(), source["path"])
                    override = f"{key}={json.dumps(sources)}"
        made.append(override)
    return made


def _weights_from_here(text: str) -> str:
    value = json_or_text(text)
    if isinstance(value, (dict, str)) and value != text:  # JSON
        return json.dumps(weights_seen_from(Path.cwd(), value))
    return str(weights_seen_from(Path.cwd(), text))


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
    at(store, write=True)
    stored = put_recipe(objects(store), _read(recipe))
    say(f"recipe  {recipe} is stored as {stored}")
    return stored


def engine(recipe: str, overrides: list[str] | None, store: str) -> Engine:
    """The engine for a recipe with its changes. Raises like `changed_recipe`."""
    from tasks.workspace import open_engine

    return open_engine(changed_recipe(recipe, overrides, store), at(store))


def prelude(version: str, store: str, dataset: str | Callable[[], str]) -> str:
    """The SQL that attaches the environment's catalog to any DuckDB.

    `version` is a dataset version or a snapshot number; empty: now. Where there are several
    datasets, tables and views hold the rows of `dataset` only, or all; a function is asked for it.
    Raises CatalogError when there is no catalog or no such version.
    """
    from kontext.store.lake.connections import prelude as attach
    from kontext.store.lake.readonly import datasets_in, narrowing

    found = catalog(store)
    snapshot = found.snapshot(version) if version else None
    with closing(found.connect(snapshot)) as connection:  # one clear line now, not errors later
        several = len({known.name for known in found.datasets()}) > 1
        names = sorted(datasets_in(connection)) if several else []
    text = attach(at(store).catalog, objects(store).url, snapshot)
    one = dataset() if names and callable(dataset) else dataset
    if not names or one == "all":
        return text
    told = f"-- Tables and views hold the rows of dataset {one}; lake.pairs etc. those of all."
    return "\n".join([text + told, *(f"{line};" for line in narrowing(names, str(one)))]) + "\n"
