"""Models and datasets by name, and which one is meant where nobody names one.

A home's own choice (`kontext use`) comes first. Without one it is what was made or used last by a
recipe that is no test (`Recipe.as_default`), which the tags latest/model and latest/dataset hold.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from kontext.errors import ArtifactError
from kontext.store.artifacts.artifact_store import Artifact, ArtifactStore
from schemas.recipes import RECIPES

CHANGES_RESULTS = False  # for users; no stage asks

KINDS = {"model": ("model", "import"), "dataset": ("dataset",)}  # and the tags that name one
FILE = "defaults.json"  # in the home


@dataclass(frozen=True)
class Named:
    """An artifact and the name by which it was found."""

    name: str  # e.g. model@kontext-demo
    artifact: Artifact
    chosen: bool = False  # by `kontext use`

    @property
    def own_name(self) -> str:
        """The model's or the dataset's own name, whatever tag led to it."""
        if "index.json" in self.artifact.names():
            return str(self.artifact.json("index.json").get("dataset", self.name))
        return str(self.artifact.manifest.config.get("name", self.name))

    def __str__(self) -> str:
        manifest = self.artifact.manifest
        of = f"recipe {manifest.recipe}" if manifest.recipe else "imported"
        how = ", chosen with `kontext use`" if self.chosen else ""
        return f"{self.name} ({of}, {manifest.stage}/{manifest.digest[:8]}{how})"


def named(store: ArtifactStore, kind: str, name: str) -> Named | None:
    """The model or dataset called `name`: `bar`, or with the kind before it, `model@bar`."""
    before, at, bare = name.rpartition("@")
    for tag in KINDS[kind]:
        if not at or before in (tag, kind):
            target = store.tagged(f"{tag}@{bare}")
            if target is not None:
                return Named(f"{kind}@{bare}", store.open(*target))
    return None


def default(store: ArtifactStore, kind: str, home: Path | None = None) -> Named:
    """The model or dataset that is meant where none is named.

    Raises ArtifactError: there is none, or the home's choice is not in this store.
    """
    chosen = choices(home).get(kind) if home else None
    if chosen:
        found = named(store, kind, chosen)
        if found is None:
            raise ArtifactError(
                f"{chosen}, this home's default, is not in {store.objects.url}: name another, or "
                f"choose one with `kontext use`"
            )
        return Named(found.name, found.artifact, chosen=True)
    tags = {n: t for n, t in store.tags().items() if n.startswith(f"{kind}@")}
    target = store.tagged(f"latest/{kind}") or _newest(store, set(tags.values()))
    if target is None:
        raise ArtifactError(f"no {kind} yet: `kontext run` makes one")
    found = Named("", store.open(*target))
    return Named(f"{kind}@{found.own_name}", found.artifact)


def _newest(store: ArtifactStore, targets: set[tuple[str, str]]) -> tuple[str, str] | None:
    """For stores that only a test recipe, or an earlier version, has written to."""
    made = [store.open(*target).manifest for target in targets]
    made.sort(key=lambda m: (m.recipe not in _tests(), m.created_at))
    return (made[-1].stage, made[-1].digest) if made else None


def _tests() -> set[str]:
    return {name for name, recipe in RECIPES.items() if not recipe().as_default}


def choices(home: Path) -> dict[str, str]:
    """Kind -> name that was chosen for this home. Raises ArtifactError for a damaged file."""
    try:
        return TypeAdapter(dict[str, str]).validate_json((home / FILE).read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"cannot read {home / FILE} ({type(error).__name__}): delete it, or `kontext use` again"
        ) from error


def choose(home: Path, kind: str, name: str | None) -> None:
    """Make `name` the home's default; None: what was made last, as before any choice."""
    kept = {k: v for k, v in choices(home).items() if k != kind}
    text = json.dumps({**kept, kind: name} if name else kept, indent=1)
    try:
        (home / FILE).write_text(text + "\n")
    except OSError as error:
        raise ArtifactError(f"cannot write {home / FILE}: {error.strerror}") from error
