"""What a recipe's section `weights` names, as `kontext.train.start.fit.placed` wrote it: a path, or
an artifact as stage/digest. `transformer`, `autoencoder` and `text` beside this file open it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kontext.errors import RecipeError
from kontext.models.files.recognise_autoencoder import read_json
from schemas.paths import expanded
from schemas.sections.weights import WeightsConfig

if TYPE_CHECKING:
    from kontext.engine.stage import StageContext
    from kontext.store.artifacts.artifact_store import Artifact

OpenArtifact = Callable[[str], "Artifact"]
_ARTIFACT = re.compile(r"([a-z-]+)/([0-9a-f]{16})")


def names_artifact(said: str) -> bool:
    """Whether a name, as `placed` makes it, is stage/digest rather than a path."""
    return _ARTIFACT.fullmatch(said) is not None


def require(part: str, said: str) -> Path:
    """The path that a part of the section names. Raises RecipeError where nothing is."""
    path = expanded(said)
    if not path.exists():
        raise RecipeError(
            f"weights.{part}: '{said}' is neither a file, a folder nor an artifact (stage/digest, "
            "a tag or a model's name); --set weights=FOLDER gives a whole model"
        )
    return path


def require_all(weights: WeightsConfig) -> None:
    """Raise RecipeError where a part of the section, as `placed` makes it, is not there."""
    for part, said in weights.named.items():
        if not names_artifact(said):
            require(part, said)


def open_given(ctx: StageContext, said: str) -> Artifact:
    """The artifact that a name means, in the run's own store. Raises ArtifactError."""
    from kontext.store.artifacts.artifact_store import ArtifactStore
    from kontext.store.objects import open_store

    store = ArtifactStore(open_store(ctx.store_url), ctx.home / "cache" / "blobs")
    return store.show(said)


def is_there(said: str) -> bool:
    """Whether a name, as `placed` makes it, means something."""
    return names_artifact(said) or expanded(said).exists()


def config_of(artifact: Artifact, name: str) -> dict[str, Any]:
    """`config.json` beside a file of an artifact; empty where there is none."""
    folder = name.rpartition("/")[0]
    config = f"{folder}/config.json" if folder else "config.json"
    return dict(artifact.json(config)) if config in artifact.names() else {}


def config_beside(path: Path) -> dict[str, Any]:
    """The configuration of a model folder of ours with this file; empty for any other."""
    config = read_json(path.parent / "config.json") if path.is_file() else {}
    return config if str(config.get("format", "")).startswith("kontext-model/") else {}
