"""Low-rank adapters as files: out of a fine-tune, and into a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kontext.errors import ArtifactError, WeightsError

if TYPE_CHECKING:
    from kontext.edit.weights.model_store import OpenStore
    from kontext.models.files.convert import Layout
    from kontext.models.files.weights import WeightsFile
    from kontext.models.flux.transformer import FluxTransformer

CHANGES_RESULTS = False  # for users; no stage calls it


def extract_lora(
    base: str, tuned: str, output: Path, rank: int, layout: Layout, open_store: OpenStore
) -> dict[str, Any]:
    """Write the adapters of `rank` that come closest to `tuned` - `base`.

    Raises:
        WeightsError: no transformers there, two of different shapes, or nothing that differs.
    """
    from kontext.models.files.lora_files import extract, save_lora

    if output.suffix != ".safetensors":
        raise WeightsError(f"{output.name}: adapters are saved as .safetensors")
    model, before = _transformer(base, open_store)
    other, after = _transformer(tuned, open_store)
    if model.shape != other.shape:
        raise WeightsError(
            f"{base} and {tuned} have different shapes: no adapter turns one into the other"
        )
    lora = extract(before, after, model, rank)
    try:
        save_lora(lora, output, model, layout)
    except OSError as error:
        raise WeightsError(f"cannot write {output}: {error.strerror}") from error
    held = [lora.lost[key] for key in lora.adapters]
    return {
        "file": str(output),
        "rank": rank,
        "adapters": len(lora.adapters),
        "lost": sum(held) / len(held),
        "not_held": sorted(set(lora.lost) - set(lora.adapters)),
    }


def merge_lora(
    base: str, lora: Path, output: Path, strength: float, open_store: OpenStore
) -> dict[str, Any]:
    """Write a model folder with the adapters of `lora`, times `strength`, added to `base`.

    Raises:
        WeightsError: no model or no adapters there, adapters for another model, or a target that is
            not empty.
    """
    from kontext.edit.weights.imports import find_source, import_model
    from kontext.edit.weights.model_store import model_source
    from kontext.models.files.lora_files import load_lora

    if not lora.exists():
        raise WeightsError(f"{lora} does not exist")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise WeightsError(f"{output} is not an empty folder")
    place = Path(base)
    source = find_source(place if place.exists() else model_source(base, open_store))
    model = source.recognised()[0].require_whole().transformer
    made = import_model(source, output, lora=load_lora(lora, model).scaled(strength))
    return {"folder": str(output), "model": made.settings.name, "digest": made.digest}


def _transformer(ref: str, open_store: OpenStore) -> tuple[FluxTransformer, WeightsFile]:
    """The transformer (on the meta device) and its tensors under our names, read when asked for."""
    from kontext.models.files.locate import artifact_transformer, find_transformer
    from kontext.models.files.recognise import recognise
    from kontext.models.files.weights import WeightsFile, bfl_entries

    if Path(ref).exists():
        path = find_transformer(Path(ref))
    else:
        try:
            path = artifact_transformer(open_store().show(ref))
        except ArtifactError as error:
            raise WeightsError(f"'{ref}' is no file, folder or artifact") from error
    model = recognise(path).transformer
    return model, WeightsFile({entry.name: entry for entry in bfl_entries(path, model)}, ref, {})
