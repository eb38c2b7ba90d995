"""What the recipe's `init` names: an artifact (stage/digest), or files on disk."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from kontext.errors import RecipeError
from kontext.models.files.locate import find_transformer
from schemas.paths import expanded

if TYPE_CHECKING:
    from kontext.engine.stage import StageContext
    from kontext.store.artifacts.artifact_store import Artifact

_ARTIFACT = re.compile(r"([a-z-]+)/([0-9a-f]{16})")


def names_artifact(init: str) -> bool:
    """Whether `init` is stage/digest rather than a path."""
    return _ARTIFACT.fullmatch(init) is not None


def open_init(ctx: StageContext, init: str) -> Artifact:
    """The artifact that `init` names, in the run's own store. Raises ArtifactError."""
    from kontext.store.artifacts.artifact_store import ArtifactStore
    from kontext.store.objects import open_store

    stage, _, digest = init.partition("/")
    store = ArtifactStore(open_store(ctx.store_url), ctx.home / "cache" / "blobs")
    return store.open(stage, digest)


def autoencoder_path(init: str) -> Path:
    """The file of an autoencoder on disk. Raises RecipeError where there is none."""
    path = expanded(init)
    if not path.is_file():
        raise RecipeError(
            f"autoencoder.init: '{init}' is neither a file nor an artifact "
            "(train-autoencoder/digest)"
        )
    return path


def transformer_path(init: str) -> Path:
    """The file or folder with a transformer's tensors. Raises RecipeError where nothing is."""
    path = expanded(init)
    if not path.exists():
        raise RecipeError(
            f"finetune.init: '{init}' is neither a file, a folder nor an artifact (stage/digest)"
        )
    return find_transformer(path)
