"""The engine for one run: recipe by name, places from the environment."""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kontext.errors import ArtifactError, RecipeError, StoreError
from schemas.changes import MisfitError, with_overrides
from schemas.paths import expanded
from schemas.recipe import Recipe
from schemas.recipes import RECIPES
from schemas.words import unknown

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


HOME = ".kontext"


def places(store: str = "") -> Places:
    """Locations from the environment; a `store` given by hand wins over KONTEXT_STORE.

    The home is KONTEXT_HOME, or the nearest folder `.kontext` from the working directory upwards,
    or else one that has yet to be made in it (see `existing` and `made`).
    """
    given = os.environ.get("KONTEXT_HOME")
    home = expanded(given).resolve() if given else _nearest_home(Path.cwd())
    catalog = os.environ.get("KONTEXT_CATALOG") or str(home / "catalog.sqlite")
    return Places(
        home=home,
        store=_absolute(store or os.environ.get("KONTEXT_STORE") or f"file://{home / 'store'}"),
        catalog=catalog if "://" in catalog else str(expanded(catalog).resolve()),
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


def _nearest_home(folder: Path) -> Path:
    for around in (folder, *folder.parents):
        with contextlib.suppress(PermissionError):  # a folder into which nobody lets us look
            if (around / HOME).is_dir():
                return around / HOME
    return folder / HOME


def existing(store: str = "") -> Places:
    """The places of a command that only reads: it makes nothing.

    Raises StoreError where there is no home, or no such store.
    """
    at = places(store)
    folder = _folder(at)
    if folder == at.home / "store":  # the home's own
        if not at.home.is_dir():
            given = os.environ.get("KONTEXT_HOME")
            where = f"at {at.home}" if given else f"in {Path.cwd()} or above"
            raise StoreError(
                f"there is no kontext home {where}: `kontext run` makes one, KONTEXT_HOME names one"
            )
    elif folder is not None and not folder.is_dir():
        raise StoreError(f"there is no store at {at.store}")
    return at


def made(store: str = "", say: Callable[[str], None] = lambda _: None) -> Places:
    """The places of a command that writes; a home or a store that is new is made, and said.

    Raises StoreError where that cannot be, also where the folder around it does not exist.
    """
    at = places(store)
    for what, folder in (("home", at.home), ("store", _folder(at))):
        if folder is None or folder.is_dir():
            continue
        _require_parent(folder, what)
        try:
            folder.mkdir(mode=0o700 if what == "home" else 0o777, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make the {what} {folder}: {error.strerror}") from error
        if folder != at.home / "store" and not (what == "home" and os.environ.get("KONTEXT_HOME")):
            say(f"new {what}: {folder}")
    if not os.access(at.home, os.W_OK | os.X_OK):
        raise StoreError(f"cannot write in the home {at.home}: its folder is read-only")
    return at


def _require_parent(folder: Path, what: str) -> None:
    """A path of which more than the end is missing is rather a typing error."""
    if not folder.parent.is_dir():
        raise StoreError(f"cannot make the {what} {folder}: there is no folder {folder.parent}")


def _folder(at: Places) -> Path | None:
    """The store's folder, where it is one."""
    return Path(at.store.removeprefix("file://")) if at.store.startswith("file://") else None


def _absolute(url: str) -> str:
    """A bare folder or a relative file URL as an absolute one: workers run elsewhere."""
    scheme, separator, path = url.partition("://")
    if separator and scheme != "file":
        return url
    return f"file://{expanded(path if separator else url).resolve()}"


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

    try:
        objects = open_store(existing(store).store)
    except StoreError as error:  # nobody has stored one
        raise RecipeError(unknown("recipe", name, RECIPES)) from error
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
    exported for another recipe, StoreError for one in a folder that does not exist.
    """
    from kontext.engine.run import Engine
    from kontext.exported import exported_artifacts, use_models
    from kontext.stages import STAGES

    if not at.home.exists():
        make_private(at)
    if folder := _folder(at):
        _require_parent(folder, "store")
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
