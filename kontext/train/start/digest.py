"""Digests of the files that training starts from: part of the digest of the stage that trains."""

import hashlib
from pathlib import Path

from kontext.data.sources.external import file_digests
from kontext.train.images.perceptual import file_digest
from kontext.train.start.files import autoencoder_path, names_artifact, transformer_path
from schemas.sections.training import AutoencoderConfig, FinetuneConfig

CHANGES_RESULTS = False  # its digests are in the artifact's digest


def autoencoder_digest(config: AutoencoderConfig, home: Path | None = None) -> str:
    """SHA-256 over the files that an autoencoder's section points to; empty where there are none.

    Raises:
        RecipeError: nothing there.
        OSError: a file cannot be read.
    """
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
