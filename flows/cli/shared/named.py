"""The model or dataset that a command takes where none is named; what it is goes to stderr."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flows.cli.shared import opened
from flows.cli.shared.show import dim
from kontext.errors import ArtifactError, CatalogError

if TYPE_CHECKING:
    from kontext.store.artifacts.defaults import Named
    from kontext.store.catalog.catalog import Catalog

_ANY_MODEL = ("", "model", "publish")  # none by name: a stage's last run may be a test's


def model(ref: str, store: str) -> str:
    """`ref`, or the default model's artifact. Raises ArtifactError where there is none."""
    if ref not in _ANY_MODEL or (ref and Path(ref).exists()):
        return ref
    found = default_model(store)
    dim(f"using {found}")
    return f"{found.artifact.stage}/{found.artifact.digest}"


def default_model(store: str) -> Named:
    """The home's default model. Raises ArtifactError where there is none."""
    from kontext.store.artifacts.defaults import default

    return default(opened.artifacts(store), "model", opened.home())


def dataset(at: str, store: str) -> str:
    """The dataset of the version `at`, or the default one. Raises KontextError."""
    if "@" in at:
        return at.partition("@")[0]
    name, said = _default_dataset(opened.catalog(store), store)
    dim(f"using {said}; --dataset names another")
    return name


def _default_dataset(catalog: Catalog, store: str) -> tuple[str, str]:
    """Its name in the catalog, and what to say of it."""
    from kontext.store.artifacts.defaults import choices, default

    home, known = opened.home(), [version.name for version in catalog.datasets()]
    try:
        found = default(opened.artifacts(store), "dataset", home)
    except ArtifactError:
        if choices(home).get("dataset") or not known:
            raise
    else:
        if found.own_name in known:
            return found.own_name, str(found)
    if not known:
        raise CatalogError("no dataset is in the catalog: `kontext run --until index` commits one")
    return known[-1], f"dataset {known[-1]} (the last that was committed)"
