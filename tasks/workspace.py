"""The engine for one run: recipe by name, places from the environment."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kontext.errors import ArtifactError, RecipeError
from schemas.changes import MisfitError, with_overrides
from schemas.recipe import Recipe
from schemas.recipes import RECIPES

if TYPE_CHECKING:
    from kontext.engine.run import Engine
    from kontext.store.artifacts.artifact_store import ArtifactStore
    from kontext.store.catalog.catalog import Catalog


@dataclass(frozen=True)
class Places:
    """Resolved locations. `home` holds scratch, cache, Prefect's state, logs and the report."""

    home: Path
    store: str
    catalog: str

    @property
    def prefect(self) -> Path:
        """Folder of the Prefect server's database, profile and results."""
        return self.home / "prefect"


def places(store: str = "") -> Places:
    """Locations from the environment; a `store` given by hand wins over KONTEXT_STORE."""
    home = Path(os.environ.get("KONTEXT_HOME") or ".kontext").expanduser().resolve()
    catalog = os.environ.get("KONTEXT_CATALOG") or str(home / "catalog.sqlite")
    return Places(
        home=home,
        store=_absolute(store or os.environ.get("KONTEXT_STORE") or f"file://{home / 'store'}"),
        catalog=catalog if "://" in catalog else str(Path(catalog).expanduser().resolve()),
    )


def make_private(at: Places) -> None:
    """The home, for its user only: databases, logs and pictures are in it.

    A folder of somebody else, or one like /tmp that everybody uses, stays as it is.
    """
    at.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = at.home.stat()
    if found.st_uid != os.getuid() or found.st_mode & stat.S_ISVTX:
        return
    at.home.chmod(0o700)
    places = (at.prefect.glob("*"), at.home.glob("logs/*"), at.home.glob("catalog.sqlite*"))
    for path in itertools.chain(*places):
        if path.is_file() and not path.is_symlink():
            path.chmod(0o600)


def _absolute(url: str) -> str:
    """A bare folder or a relative file URL as an absolute one: workers run elsewhere."""
    scheme, separator, path = url.partition("://")
    if separator and scheme != "file":
        return url
    return f"file://{Path(path if separator else url).expanduser().resolve()}"


def resolve_recipe(name: str, overrides: Sequence[str] = (), store: str = "") -> Recipe:
    """A named recipe, or one of the store's (`NAME` or `NAME@DIGEST`), with overrides applied.

    Raises RecipeError with one clear line.
    """
    try:
        return with_overrides(_base_recipe(name, store), overrides)
    except MisfitError as error:
        raise RecipeError(str(error)) from error


def _base_recipe(name: str, store: str) -> Recipe:
    if name in RECIPES:
        return RECIPES[name]()
    from kontext.store.objects import open_store
    from kontext.store.recipes import find_recipe, get_recipe

    objects = open_store(places(store).store)
    return get_recipe(objects, find_recipe(objects, name, tuple(RECIPES)))


def open_engine(
    recipe: Recipe,
    at: Places,
    run: str = "",
    versions: Sequence[str] = (),
    stop: Callable[[], bool] = lambda: False,
) -> Engine:
    """The engine over these places.

    `versions` are artifacts to take as they are: stage/digest, a tag or a stage name (its latest).
    Long stages ask `stop` whether to save and end. Over a store of `kontext export-store`, the data
    stages are those that were exported, models are read from the store, and there is no catalog:
    the store it goes back to has one.

    Raises ArtifactError for a version that does not exist, RecipeError for a store that was
    exported for another recipe.
    """
    from kontext.engine.run import Engine
    from kontext.exported import exported_artifacts, use_models
    from kontext.stages import STAGES

    if not at.home.exists():
        make_private(at)
    exported = exported_artifacts(open_artifacts(at), recipe, STAGES)
    if exported:
        use_models(at.store)
    pins = {**exported, **(chosen(at, versions) if versions else {})}
    catalog = "" if exported else at.catalog
    return Engine(recipe, at.store, catalog, at.home, run=run, stop=stop, stages=STAGES, pins=pins)


def open_artifacts(at: Places) -> ArtifactStore:
    """The artifact store of these places."""
    from kontext.store.artifacts.artifact_store import ArtifactStore
    from kontext.store.objects import open_store

    return ArtifactStore(open_store(at.store), at.home / "cache" / "blobs")


def open_catalog(at: Places) -> Catalog:
    """The catalog of these places, whose data files are in their store."""
    from kontext.store.catalog.catalog import Catalog
    from kontext.store.objects import open_store

    return Catalog(at.catalog, open_store(at.store).url)


def chosen(at: Places, versions: Sequence[str]) -> dict[str, str]:
    """Stage -> digest of the artifacts that `versions` name.

    Raises ArtifactError for an unknown artifact or two of one stage.
    """
    found: dict[str, str] = {}
    for stage, digest in map(open_artifacts(at).resolve, versions):
        if found.setdefault(stage, digest) != digest:
            raise ArtifactError(f"two versions of stage '{stage}' were chosen")
    return found
