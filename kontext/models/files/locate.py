"""Where a transformer's tensors lie in a folder or an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kontext.errors import WeightsError

if TYPE_CHECKING:
    from kontext.store.artifacts.artifact_store import Artifact

TRANSFORMER = "transformer.safetensors"  # of a model folder of ours


def find_transformer(path: Path) -> Path:
    """The file, or diffusers' folder, with the transformer's tensors of a model at `path`."""
    if (path / TRANSFORMER).is_file():
        return path / TRANSFORMER
    if (path / "transformer").is_dir():
        return path / "transformer"
    if path.is_file() or (path / "config.json").is_file():
        return path
    return only_transformer(path)


def artifact_transformer(artifact: Artifact) -> Path:
    """The transformer's file in an artifact: import's, finetune's, or publish's teacher.

    A few-step student is no start for training and no base for adapters, so the teacher comes
    first.

    Raises:
        WeightsError: it has none.
    """
    for name in (f"teacher/{TRANSFORMER}", f"model/{TRANSFORMER}", "flow.safetensors"):
        if name in artifact.names():
            return artifact.path(name)
    raise WeightsError("the artifact holds no transformer: take finetune's, publish's or import's")


def only_transformer(folder: Path) -> Path:
    """The one file in `folder` that is no autoencoder. Raises WeightsError for none or several."""
    found = [p for p in sorted(folder.glob("*.safetensors")) if p.name != "ae.safetensors"]
    if len(found) != 1:
        names = ", ".join(p.name for p in found) or "none"
        raise WeightsError(f"{folder}: expected one transformer's .safetensors, found {names}")
    return found[0]
