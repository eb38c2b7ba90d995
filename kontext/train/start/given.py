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


def located(
    part: str,
    said: str,
    open_artifact: OpenArtifact,
    name_in: Callable[[Artifact], str],
    find: Callable[[Path], Path],
) -> tuple[Path, dict[str, Any]]:
    """Where the weights of a part lie, and our configuration of them; empty where there is none.

    Args:
        name_in: the weights' file in an artifact.
        find: the weights' file, or diffusers' folder, of a model at a path.

    Raises:
        RecipeError: nothing there.
        ArtifactError, WeightsError: no such part there.
    """
    if names_artifact(said):
        artifact = open_artifact(said)
        name = name_in(artifact)
        return artifact.path(name), config_of(artifact, name)
    path = find(require(part, said))
    return path, config_beside(path)


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
