"""Foreign weights into a model folder: BFL's files, diffusers' folders, or a model folder of ours.

Tensors go from file to file one at a time, so memory does not depend on the model's size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import ValidationError

from kontext.edit.weights.folder import (
    AUTOENCODER,
    CONFIG,
    TRANSFORMER,
    ModelFile,
    ModelSettings,
    find_file,
    read_config,
    write_config,
)
from kontext.edit.weights.text import check_text, digest_of, text_spec
from kontext.errors import WeightsError
from kontext.models.files.locate import TEXT_FOLDERS, find_transformer
from kontext.models.files.recognise import SCHEDULER, Recognised, recognise
from kontext.models.files.weights import Entry, bfl_entries, write_weights
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.lora import Lora
from schemas.sections.models import TransformerShape

if TYPE_CHECKING:
    from kontext.store.artifacts.artifact_store import Artifact

SETTINGS = "kontext.json"  # our settings beside exported weights
_MINILM = 384


@dataclass(frozen=True)
class WeightsSource:
    """Where the parts of a model lie."""

    transformer: Path  # a file, or diffusers' folder
    autoencoder: Path
    text: str  # see kontext.models.text.encoders.load_text_encoder; empty: not there
    settings: ModelSettings | None = None  # that came with it
    config: ModelFile | None = None  # of a model folder of ours

    def recognised(self) -> tuple[Recognised, Recognised]:
        """What the transformer's and the autoencoder's files are. Raises WeightsError."""
        models = self.config.networks() if self.config else (None, None)
        return recognise(self.transformer, models[0]), recognise(self.autoencoder, models[1])

    def files(self) -> dict[str, Path]:
        """Every file that decides what is imported, by its place in the model."""
        found: dict[str, Path] = {}
        for role, path in (("transformer", self.transformer), ("autoencoder", self.autoencoder)):
            if path.is_file():
                found[role] = path
            else:
                inside = sorted(p for p in path.iterdir() if p.suffix in (".safetensors", ".json"))
                found.update({f"{role}/{p.name}": p for p in inside})
        scheduler = self.transformer.parent / SCHEDULER
        if self.transformer.is_dir() and scheduler.is_file():
            found[SCHEDULER] = scheduler
        return found


def find_source(
    place: Path | Artifact, autoencoder: Path | None = None, text: str = ""
) -> WeightsSource:
    """The parts of a model at `place`.

    Args:
        place: a transformer's file, a folder with one and `ae.safetensors`, diffusers' pipeline or
            `transformer` folder, or a model folder of ours, also in an artifact.
        autoencoder: where it lies elsewhere.
        text: where the text encoders are, if not in the folder; see `text_spec`.

    Raises:
        WeightsError: nothing there, more than one candidate, or no autoencoder.
    """
    text = text_spec(text)
    if not isinstance(place, Path) or all((place / n).is_file() for n in (CONFIG, TRANSFORMER)):
        config = read_config(place)
        parts = find_file(place, TRANSFORMER), find_file(place, AUTOENCODER)
        return WeightsSource(*parts, text, config.settings, config)
    transformer = find_transformer(place)
    folder = place
    if transformer == place:
        folder = place.parent if place.is_file() else place.resolve().parent
    beside = (folder / "vae", folder / "ae.safetensors")
    found = autoencoder or next((path for path in beside if path.exists()), None)
    if found is None:
        raise WeightsError(f"{place}: no autoencoder next to it (vae/ or ae.safetensors); name one")
    if not text and all((folder / name).is_dir() for name in TEXT_FOLDERS):
        text = f"flux:{folder.resolve()}"
    return WeightsSource(transformer, found, text, _settings(folder / SETTINGS))


def _settings(path: Path) -> ModelSettings | None:
    if not path.is_file():
        return None
    try:
        return ModelSettings.model_validate_json(path.read_text())
    except (OSError, ValidationError) as error:
        raise WeightsError(f"{path}: not the settings of a model") from error


def flux_settings(name: str, shape: TransformerShape, text: str) -> ModelSettings:
    """How the published models want to be used: Kontext-dev's numbers, or schnell's."""
    if not text:
        if shape.context_in_dim != _MINILM:
            raise WeightsError("no text encoders next to the weights: say where (--text FOLDER)")
        text = "minilm"
    dev = shape.guidance_embed
    return ModelSettings(
        name=name,
        text_encoder=text,
        text_digest=digest_of(text),
        text_length=512 if dev else 256,
        resolution=1024,
        sizes="kontext",
        steps=28 if dev else 4,
        guidance=2.5 if dev else 1.0,
    )


@dataclass(frozen=True)
class Imported:
    """What was written."""

    digest: str
    transformer: Recognised
    settings: ModelSettings
    notes: tuple[str, ...] = ()  # about the adapters, if there were any


def import_model(
    source: WeightsSource,
    folder: Path,
    name: str = "",
    dtype: torch.dtype | None = None,
    lora: Lora | None = None,
) -> Imported:
    """Write the model folder `folder` from foreign weights.

    Args:
        dtype: of the transformer; None keeps the file's. The autoencoder keeps its own.
        lora: adapters to merge into the transformer.

    Raises:
        WeightsError: files that are damaged, of another layout or another shape (all keys in one
            message), adapters of another width or that the weights' dtype rounds away, sizes
            that cannot be read from them, or text encoders that are not the model's.
    """
    transformer, autoencoder = (found.require_whole() for found in source.recognised())
    shape, ae = transformer.transformer.shape, autoencoder.autoencoder
    if dtype is None and any(name.startswith("float8") for name in transformer.dtypes):
        raise WeightsError(f"{source.transformer} holds float8: say which dtype it should become")
    if shape.in_channels != 4 * ae.shape.z_channels:
        raise WeightsError(
            f"{source.transformer} takes {shape.in_channels} channels; the autoencoder makes "
            f"4 x {ae.shape.z_channels}"
        )
    settings = source.settings or flux_settings(name, shape, source.text)
    changes = {"name": name, "text_encoder": source.text}
    settings = settings.model_copy(update={k: v for k, v in changes.items() if v})
    if source.text:
        check_text(settings)
    folder.mkdir(parents=True, exist_ok=True)
    entries = bfl_entries(source.transformer, transformer.model, dtype)
    notes = _write_transformer(folder / TRANSFORMER, entries, transformer.transformer, lora)
    entries = bfl_entries(source.autoencoder, autoencoder.model)
    write_weights(folder / AUTOENCODER, entries, {})
    digest = write_config(folder, settings, shape, ae.config())
    return Imported(digest, transformer, settings, notes)


def _write_transformer(
    file: Path, entries: list[Entry], model: FluxTransformer, lora: Lora | None
) -> tuple[str, ...]:
    """Write the tensors, with the adapters in them; returns what is to say about the adapters.

    Raises:
        WeightsError: after rounding, the adapters change no weight; nothing is written then.
    """
    if lora is None:
        write_weights(file, entries, {})
        return ()
    unchanged: list[str] = []
    write_weights(file, lora.check(model).merged(entries, unchanged), {})
    lost = [key for key in unchanged if key not in lora.idle]
    if lost and len(unchanged) == len(lora.adapters):
        file.unlink()
        raise WeightsError(
            f"{lora.label} changes nothing: {len(lost)} adapters are smaller than the rounding of "
            "the weights' dtype (import them as fp32, or take a higher strength)"
        )
    rounded = [f"{lora.label}: rounding took {len(lost)} adapters ({lost[0]}, …)"] if lost else []
    return (*lora.notes(), *rounded)
