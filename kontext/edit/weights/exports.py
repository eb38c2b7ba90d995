"""A model folder in the layouts that other tools read: BFL's two files, or diffusers' folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from kontext.edit.weights.folder import AUTOENCODER, TRANSFORMER, ModelFile, find_file, read_config
from kontext.edit.weights.imports import SETTINGS
from kontext.edit.weights.text import check_text, with_text
from kontext.errors import WeightsError
from kontext.models.autoencoder.network import Autoencoder
from kontext.models.files.convert import (
    Layout,
    autoencoder_config,
    rules_for,
    scheduler_config,
    transformer_config,
)
from kontext.models.files.locate import TEXT_FOLDERS
from kontext.models.files.recognise import SCHEDULER
from kontext.models.files.recognise_autoencoder import SHAPE_KEY, read_json
from kontext.models.files.weights import (
    Entry,
    bfl_entries,
    diffusers_entries,
    write_sharded,
    write_weights,
)
from kontext.models.flux.transformer import FluxTransformer

if TYPE_CHECKING:
    from kontext.store.artifacts.artifact_store import Artifact

CHANGES_RESULTS = False  # writes other layouts of weights that are there

_STEM = "diffusion_pytorch_model"
_INDEX = {
    "_class_name": "FluxKontextPipeline",
    "_diffusers_version": "0.35.0",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "T5TokenizerFast"],
    "transformer": ["diffusers", "FluxTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


@dataclass(frozen=True)
class Exported:
    """What was written, and what the folder can and cannot do."""

    folder: Path
    files: tuple[str, ...]  # relative to the folder, sorted
    note: str


def export_model(
    source: Path | Artifact,
    folder: Path,
    layout: Layout,
    dtype: torch.dtype | None = None,
    text: str = "",
) -> Exported:
    """Write a model folder's weights to `folder`, one tensor at a time.

    diffusers: `transformer/` and `vae/`; with FLUX.1's text encoders all of `FluxKontextPipeline`.
    bfl: `<name>.safetensors` and `ae.safetensors`. Both get `kontext.json`, our settings, so that
    an import restores the model folder byte for byte.

    Args:
        dtype: of the transformer; None keeps it.
        text: where the text encoders lie now, see `with_text`; empty: where the model says.

    Raises:
        WeightsError: no model there, a target that is not empty or cannot be written, a shape
            that diffusers cannot hold, or text encoders that have moved or are not the model's.
    """
    config = read_config(source)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise WeightsError(f"{folder} exists and is not empty")
    config = config.model_copy(update={"settings": with_text(config.settings, text)})
    if layout == "diffusers":  # before anything is written
        check_text(config.settings)
    transformer, autoencoder = config.networks()
    entries = (
        bfl_entries(find_file(source, TRANSFORMER), transformer, dtype),
        bfl_entries(find_file(source, AUTOENCODER), autoencoder),
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(folder / SETTINGS, config.settings.model_dump(mode="json"))
        if layout == "bfl":
            note = _bfl(config, entries, folder)
        else:
            note = _diffusers(config, transformer, autoencoder, entries, folder)
    except OSError as error:
        raise WeightsError(f"cannot write {folder}: {error.strerror or error}") from error
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    return Exported(folder, tuple(files), note)


def _bfl(config: ModelFile, entries: tuple[list[Entry], list[Entry]], folder: Path) -> str:
    shape = config.transformer.model_dump_json()
    name = f"{config.settings.name}.safetensors"
    write_weights(folder / name, entries[0], {SHAPE_KEY: shape})
    ae = json.dumps(config.autoencoder.model_dump(mode="json"), sort_keys=True)
    write_weights(folder / "ae.safetensors", entries[1], {SHAPE_KEY: ae})
    return "BFL's layout: transformer and autoencoder; text encoders are separate files"


def _diffusers(
    config: ModelFile,
    transformer: FluxTransformer,
    autoencoder: Autoencoder,
    entries: tuple[list[Entry], list[Entry]],
    folder: Path,
) -> str:
    _part(folder / "transformer", transformer, transformer_config(transformer.shape), entries[0])
    _part(folder / "vae", autoencoder, autoencoder_config(autoencoder), entries[1])
    _write_json(folder / SCHEDULER, scheduler_config(transformer.shape))
    kind, _, text = config.settings.text_encoder.partition(":")
    if kind != "flux":
        return (
            "transformer, vae and scheduler only: FluxKontextPipeline needs T5 and CLIP, and "
            f"this model reads its text with {kind}"
        )
    for name in TEXT_FOLDERS:
        shutil.copytree(Path(text) / name, folder / name)
    own = read_json(Path(text) / "model_index.json")  # classes differ by version
    classes = {name: own[name] for name in TEXT_FOLDERS if name in own}
    _write_json(folder / "model_index.json", {**_INDEX, **classes})
    return "a whole pipeline: FluxKontextPipeline.from_pretrained reads it"


def _part(folder: Path, model: nn.Module, config: dict[str, Any], entries: list[Entry]) -> None:
    write_sharded(folder, _STEM, diffusers_entries(entries, rules_for(model)))
    _write_json(folder / "config.json", config)


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
