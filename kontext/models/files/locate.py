"""Where a model's parts lie in a folder or an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kontext.errors import WeightsError

if TYPE_CHECKING:
    from kontext.store.artifacts.artifact_store import Artifact

# of a model folder of ours
TRANSFORMER, AUTOENCODER = "transformer.safetensors", "autoencoder.safetensors"
# CLIP's and T5's, beside a transformer in diffusers' layout
TEXT_FOLDERS = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")


def find_transformer(path: Path) -> Path:
    """The file, or diffusers' folder, with the transformer's tensors of a model at `path`."""
    if (path / TRANSFORMER).is_file():
        return path / TRANSFORMER
    if (path / "transformer").is_dir():
        return path / "transformer"
    if path.is_file() or (path / "config.json").is_file():
        return path
    return only_transformer(path)


def find_autoencoder(path: Path) -> Path:
    """The file, or diffusers' folder, with the autoencoder's tensors of a model at `path`.

    Raises WeightsError where a folder has none.
    """
    if path.is_file():
        return path
    for place in (path / "vae", path / "ae.safetensors", path / AUTOENCODER):
        if place.exists():
            return place
    if any(path.glob("*.safetensors")):  # diffusers' vae/ itself
        return path
    raise WeightsError(f"{path}: no autoencoder here (vae/, ae.safetensors or {AUTOENCODER})")


def check_text_folders(folder: Path) -> None:
    """Raise WeightsError where FLUX.1's text encoders and tokenizers are not all in a folder."""
    for name in TEXT_FOLDERS:
        if not (folder / name).is_dir():
            raise WeightsError(
                f"{folder} has no sub-folder {name}: if the text encoders have moved, say where "
                "they are (edit, export, import: --text FOLDER; run: --set weights.text=FOLDER)"
            )


def artifact_transformer(artifact: Artifact) -> Path:
    """The transformer's file in an artifact. Raises WeightsError: see `transformer_name_in`."""
    return artifact.path(transformer_name_in(artifact))


def transformer_name_in(artifact: Artifact) -> str:
    """Name of the transformer's file in an artifact: import's, finetune's, or publish's teacher.

    A few-step student is no start for training and no base for adapters, so the teacher comes
    first.

    Raises:
        WeightsError: it has none.
    """
    for name in (f"teacher/{TRANSFORMER}", f"model/{TRANSFORMER}", "flow.safetensors"):
        if name in artifact.names():
            return name
    raise WeightsError("the artifact holds no transformer: take finetune's, publish's or import's")


def autoencoder_name_in(artifact: Artifact) -> str:
    """Name of the autoencoder's file in an artifact of train-autoencoder, publish or import.

    Raises:
        WeightsError: it has none.
    """
    for name in (AUTOENCODER, f"model/{AUTOENCODER}"):
        if name in artifact.names():
            return name
    raise WeightsError(
        "the artifact holds no autoencoder: take train-autoencoder's, publish's or import's"
    )


def only_transformer(folder: Path) -> Path:
    """The one file in `folder` that is no autoencoder. Raises WeightsError for none or several."""
    found = [p for p in sorted(folder.glob("*.safetensors")) if p.name != "ae.safetensors"]
    if len(found) != 1:
        names = ", ".join(p.name for p in found) or "none"
        raise WeightsError(f"{folder}: expected one transformer's .safetensors, found {names}")
    return found[0]
