"""What the recipe's `init` names: an artifact (stage/digest), or files on disk and their digest."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from kontext.errors import RecipeError
from kontext.models.locate import find_transformer
from schemas.train_config import AutoencoderConfig, FinetuneConfig

if TYPE_CHECKING:
    from kontext.stage import StageContext
    from kontext.store.artifacts import Artifact

_ARTIFACT = re.compile(r"([a-z-]+)/([0-9a-f]{16})")


def names_artifact(init: str) -> bool:
    """Whether `init` is stage/digest rather than a path."""
    return _ARTIFACT.fullmatch(init) is not None


def open_init(ctx: StageContext, init: str) -> Artifact:
    """The artifact that `init` names, in the run's own store. Raises ArtifactError."""
    from kontext.store.artifacts import ArtifactStore
    from kontext.store.objects import open_store

    stage, _, digest = init.partition("/")
    store = ArtifactStore(open_store(ctx.store_url), ctx.home / "cache" / "blobs")
    return store.open(stage, digest)


def autoencoder_path(init: str) -> Path:
    """The file of an autoencoder on disk. Raises RecipeError where there is none."""
    path = Path(init).expanduser()
    if not path.is_file():
        raise RecipeError(
            f"autoencoder.init: '{init}' is neither a file nor an artifact "
            "(train-autoencoder/digest)"
        )
    return path


def transformer_path(init: str) -> Path:
    """The file or folder with a transformer's tensors. Raises RecipeError where nothing is."""
    path = Path(init).expanduser()
    if not path.exists():
        raise RecipeError(
            f"finetune.init: '{init}' is neither a file, a folder nor an artifact (stage/digest)"
        )
    return find_transformer(path)


def autoencoder_digest(config: AutoencoderConfig, home: Path | None = None) -> str:
    """SHA-256 over the files that an autoencoder's section points to; empty where there are none.

    Raises:
        RecipeError: nothing there.
        OSError: a file cannot be read.
    """
    from kontext.data.sources.external import file_digests
    from kontext.train.perceptual import file_digest

    found = ""
    if config.init and not names_artifact(config.init):
        with file_digests(home) as digests:
            found = digests.of(autoencoder_path(config.init))
    return f"{found} {file_digest(config)}".strip()


def transformer_digest(config: FinetuneConfig, home: Path | None = None) -> str:
    """SHA-256 over the bytes that `finetune.init` points to on disk; empty where it does not.

    An artifact names its own content. Files are read once, as those of ingest's folders are.

    Raises:
        RecipeError: nothing there.
        OSError: a file cannot be read.
    """
    from kontext.data.sources.external import file_digests

    if not config.init or names_artifact(config.init):
        return ""
    path = transformer_path(config.init)
    kinds = (".safetensors", ".json")
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.suffix in kinds)
    digest = hashlib.sha256()
    with file_digests(home) as digests:
        for file in files:
            digest.update(f"{file.name}\x1f{digests.of(file)}\n".encode())
    return digest.hexdigest()
