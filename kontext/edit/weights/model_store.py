"""Models in the artifact store: import, export and examine weights, extract and merge adapters.

Works on files and an artifact store alone: where the store is, the caller knows.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from kontext.edit.weights.exports import export_model
from kontext.edit.weights.folder import CONFIG, TRANSFORMER, read_config
from kontext.edit.weights.imports import WeightsSource, find_source, import_model
from kontext.edit.weights.text import digest_of
from kontext.edit.weights.trained import is_trained, trained_folder
from kontext.engine.fingerprint import code_digest, modules_of
from kontext.engine.versions import manifest_of
from kontext.errors import ArtifactError, StoreError, WeightsError
from kontext.models.files.locate import artifact_transformer, find_transformer
from kontext.models.files.lora_files import extract, load_lora, read_info, save_lora
from kontext.models.files.lora_keys import LoraLayout, style_of
from kontext.models.files.recognise import Recognised, recognise
from kontext.models.files.weights import WeightsFile, bfl_entries, open_weights
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.lora import Lora, LoraInfo
from kontext.models.quantize import quantized_names
from schemas.manifest import artifact_digest

if TYPE_CHECKING:
    from kontext.store.artifacts.artifact_store import Artifact, ArtifactStore

CHANGES_RESULTS = False  # for users; no stage calls it

OpenStore = Callable[[], "ArtifactStore"]  # called where a model is no file or folder

STAGE = "import"  # artifacts of this name come from outside, not from a stage
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
CODE = "kontext.edit.weights.imports"  # with all that it imports: what decides an import's bytes


@dataclass(frozen=True)
class ImportRequest:
    """One import. Empty strings take what is next to the weights."""

    path: Path
    name: str = ""
    dtype: str = ""
    autoencoder: Path | None = None
    text: str = ""
    lora: Path | None = None


def dtype_of(name: str) -> torch.dtype | None:
    """The torch dtype of `bf16`, `fp16` or `fp32`; None for an empty name."""
    if name and name not in DTYPES:
        raise WeightsError(f"unknown dtype '{name}' (known: {', '.join(DTYPES)})")
    return DTYPES.get(name)


def import_weights(request: ImportRequest, store: ArtifactStore, scratch: Path) -> dict[str, Any]:
    """Make an artifact `import/<digest>` that `edit --weights` and `export` take.

    The digest covers the bytes of all source files and the choices made; equal imports are reused.

    Args:
        scratch: folder on a disk with room for the model while it is written.

    Raises:
        WeightsError: see `kontext.edit.weights.imports`.
    """
    from kontext.store.objects import sha256_file

    if not request.path.exists():
        raise WeightsError(f"{request.path} does not exist")
    dtype_of(request.dtype)
    source = find_source(request.path, request.autoencoder, request.text)
    name = _name(request, source)
    if store.tagged(f"model@{name}"):
        raise WeightsError(f"a published model is called '{name}': give the import another --name")
    files = source.files()
    if request.lora:
        files["lora"] = request.lora
    config = {
        "name": name,
        "dtype": request.dtype,
        "text": source.text,
        "text_digest": digest_of(source.text),  # others in that place are another model
        "files": {part: sha256_file(path) for part, path in files.items()},
    }
    digest = artifact_digest(STAGE, code_digest(modules_of(CODE)), config, {})
    reused = store.exists(STAGE, digest)
    if not reused:
        _write_artifact(store, request, source, config, digest, scratch)
    for tag in (f"latest/{STAGE}", f"{STAGE}@{name}"):
        store.tag(tag, STAGE, digest)
    made = store.open(STAGE, digest)
    return {
        "artifact": f"{STAGE}/{digest}",
        "tag": f"{STAGE}@{name}",
        "reused": reused,
        "made_for": read_config(made).settings.made_for,
        "notes": made.manifest.notes,
        **made.manifest.metrics,
    }


def _name(request: ImportRequest, source: WeightsSource) -> str:
    given = request.name or (source.settings.name if source.settings else request.path.stem)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", given).strip("-.")
    if not name:
        raise WeightsError(f"'{given}' is not a name: use letters, digits, dot, dash or underscore")
    return name


def _write_artifact(
    store: ArtifactStore,
    request: ImportRequest,
    source: WeightsSource,
    config: dict[str, Any],
    digest: str,
    scratch: Path,
) -> None:
    began = time.monotonic()
    folder = scratch / f"{STAGE}-{digest}"
    try:
        model = source.recognised()[0].transformer
        lora = _read_lora(request.lora, model) if request.lora else None
        made = import_model(source, folder, config["name"], dtype_of(request.dtype), lora)
        writer = store.writer(STAGE, digest)
        for path in sorted(folder.iterdir()):
            writer.add_file(f"model/{path.name}", path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    writer.metric("model_digest", made.digest)
    writer.metric("parameters", made.transformer.parameters)
    writer.metric("geometry", made.transformer.name)
    for note in made.notes:
        writer.note(note)
    if made.settings.text_encoder.startswith("flux:"):
        writer.note(f"text encoders stay where they are: {made.settings.text_encoder[5:]}")
    writer.commit(manifest_of(writer, modules_of(CODE), config, {}, began=began))


def export_weights(
    ref: str, layout: str, folder: Path, dtype: str, open_store: OpenStore, text: str = ""
) -> dict[str, Any]:
    """Write an artifact's model, or a model folder, in BFL's or diffusers' layout.

    What finetune, exclude or distill made is a model too: it need not be published.

    Args:
        text: where the text encoders lie now; empty: where the model says.

    Raises:
        WeightsError: no model there, an unknown layout, a target that is not empty, or text
            encoders that have moved or are not the model's.
    """
    if layout not in ("bfl", "diffusers"):
        raise WeightsError(f"unknown layout '{layout}' (known: bfl, diffusers)")
    with tempfile.TemporaryDirectory() as scratch:
        source = model_source(ref, open_store, Path(scratch))
        to: Literal["bfl", "diffusers"] = "bfl" if layout == "bfl" else "diffusers"
        made = export_model(source, folder, to, dtype_of(dtype), text)
    return {"folder": str(made.folder), "files": list(made.files), "note": made.note}


def model_source(ref: str, open_store: OpenStore, scratch: Path | None = None) -> Path | Artifact:
    """A model folder, or the artifact of a model: by name, tag or digest; empty: the store's own.

    Args:
        scratch: where a model folder is put together of what a training stage made; without it
            that is refused.

    Raises:
        WeightsError: neither.
    """
    from kontext.store.artifacts.defaults import default  # a folder alone needs no store

    if ref and Path(ref).is_dir():  # model@NAME is a name all the same
        return Path(ref)
    try:
        store = open_store()
        found = store.show(ref) if ref else default(store, "model").artifact
    except (ArtifactError, StoreError) as error:
        words = f"'{ref}' is neither a folder nor an artifact: {error}" if ref else str(error)
        raise WeightsError(words) from error
    if scratch is not None and is_trained(found):
        return trained_folder(store, found, scratch / "model")
    if not found.names("model/"):
        raise WeightsError(
            f"{found.stage}/{found.digest} holds no model folder: take what publish or import made"
        )
    return found


def extract_lora(
    base: str,
    tuned: str,
    output: Path,
    rank: int,
    layout: LoraLayout,
    open_store: OpenStore,
    trigger: str = "",
) -> dict[str, Any]:
    """Write the adapters of `rank` that come closest to `tuned` - `base`.

    Args:
        trigger: words that call up what the fine-tune learned; kept in the file.

    Raises:
        WeightsError: no transformers there, two of different shapes, or nothing that differs.
    """
    _check_output(output)
    model, before = _transformer(base, open_store)
    other, after = _transformer(tuned, open_store)
    if model.shape != other.shape:
        raise WeightsError(
            f"{base} and {tuned} have different shapes: no adapter turns one into the other"
        )
    lora = extract(before, after, model, rank)
    _save(lora, output, model, layout, LoraInfo(Path(base).name, trigger, output.stem))
    held = [lora.lost[key] for key in lora.adapters]
    return {
        "file": str(output),
        "rank": rank,
        "adapters": len(lora.adapters),
        "lost": sum(held) / len(held),
        "not_held": sorted(set(lora.lost) - set(lora.adapters)),
    }


def convert_lora(
    base: str, lora: Path, output: Path, layout: LoraLayout, open_store: OpenStore
) -> dict[str, Any]:
    """Write the adapters of `lora` in the keys of `layout`. Of `base` only the shapes are used.

    Raises:
        WeightsError: no transformer or no adapters there, adapters for another model, or adapters
            that change nothing.
    """
    _check_output(output)
    model, _ = _transformer(base, open_store)
    adapters = _read_lora(lora, model)
    _save(adapters, output, model, layout, adapters.info)
    return {
        "file": str(output),
        "layout": layout,
        "adapters": len(adapters.adapters),
        "notes": adapters.notes(),
    }


def _check_output(output: Path) -> None:
    if output.suffix != ".safetensors":
        raise WeightsError(f"{output.name}: adapters are saved as .safetensors")


def _save(
    lora: Lora, output: Path, model: FluxTransformer, layout: LoraLayout, info: LoraInfo
) -> None:
    try:
        save_lora(lora, output, model, layout, info)
    except OSError as error:
        raise WeightsError(f"cannot write {output}: {error.strerror}") from error


def _read_lora(path: Path, model: FluxTransformer) -> Lora:
    """Adapters that fit the model and change something. Raises WeightsError."""
    if not path.exists():
        raise WeightsError(f"{path} does not exist")
    return load_lora(path, model).require_effect()


def merge_lora(
    base: str, lora: Path, output: Path, strength: float, open_store: OpenStore
) -> dict[str, Any]:
    """Write a model folder with the adapters of `lora`, times `strength`, added to `base`.

    Raises:
        WeightsError: no model or no adapters there, adapters for another model or that change
            nothing, or a target that is not empty.
    """
    if not lora.exists():
        raise WeightsError(f"{lora} does not exist")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise WeightsError(f"{output} is not an empty folder")
    place = Path(base)
    source = find_source(place if place.exists() else model_source(base, open_store))
    model = source.recognised()[0].require_whole().transformer
    made = import_model(source, output, lora=_read_lora(lora, model).scaled(strength))
    return {
        "folder": str(output),
        "model": made.settings.name,
        "digest": made.digest,
        "notes": list(made.notes),
    }


def _transformer(ref: str, open_store: OpenStore) -> tuple[FluxTransformer, WeightsFile]:
    """The transformer (on the meta device) and its tensors under our names, read when asked for."""
    if Path(ref).exists():
        path = find_transformer(Path(ref))
    else:
        try:
            path = artifact_transformer(open_store().show(ref))
        except (ArtifactError, StoreError) as error:
            raise WeightsError(f"'{ref}' is no file, folder or artifact: {error}") from error
    model = recognise(path).transformer
    return model, WeightsFile({entry.name: entry for entry in bfl_entries(path, model)}, ref, {})


def examine(ref: str, open_store: OpenStore) -> list[dict[str, Any]]:
    """What a weights file, folder or artifact is: one row per part.

    Raises:
        WeightsError: nothing there, damaged, or of no known layout.
    """
    path = Path(ref)
    if path.is_file():
        weights = open_weights(path)
        return [_lora_row(weights)] if weights.is_lora else [_row(recognise(path))]
    if (path / CONFIG).is_file() and not (path / TRANSFORMER).is_file():
        return [_row(recognise(path))]  # diffusers' transformer/ or vae/
    source = find_source(model_source(ref, open_store))
    made_for = source.settings.made_for if source.settings else ""
    return [{**_row(found), "made_for": made_for} for found in source.recognised()]


def _row(found: Recognised) -> dict[str, Any]:
    count = found.parameters
    return {
        "file": found.label,
        "part": found.kind,
        "layout": found.layout,
        "model": found.name,
        "parameters": count,
        "dtypes": found.dtypes,
        "shape": found.model.shape.model_dump(mode="json"),
        "problems": list(found.problems),
        "assumed": list(found.assumed),
        "needs": _needs(found),
    }


def _needs(found: Recognised) -> str:
    whole = 2 * found.parameters
    said = f"{whole / 1e9:.2f} GB for the weights in bf16"
    if found.kind != "transformer":
        return said
    model = found.transformer
    eight = sum(model.get_parameter(f"{n}.weight").numel() for n in quantized_names(model))
    return f"{said}, {(whole - eight) / 1e9:.2f} GB with --quantize"


def _lora_row(weights: WeightsFile) -> dict[str, Any]:
    downs = [e for k, e in weights.entries.items() if re.search(r"lora\w*[._](A|down)\b", k)]
    ranks = ", ".join(str(rank) for rank in sorted({entry.shape[0] for entry in downs}))
    info = read_info(weights)
    return {
        "file": weights.label,
        "part": "lora",
        "layout": style_of(weights),
        "model": f"{len(downs)} adapters of rank {ranks or 'unknown'}",
        "parameters": sum(e.bytes // e.dtype.itemsize for e in weights.entries.values()),
        "dtypes": {},
        "problems": [],
        "assumed": [],
        "made_for": info.base,
        "trigger": info.trigger,
        "needs": "a base model of its widths: kontext import BASE --lora FILE",
    }
