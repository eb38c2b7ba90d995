"""What training starts from: nothing, given weights, or adapters (LoRA) beside given weights.

`finetune.init` names a FLUX.1 file (BFL's layout), diffusers' folder, a model folder of ours, or an
artifact as stage/digest: import's model, finetune's flow, or publish's teacher (a few-step student
is no start for flow training). `autoencoder.init` names an autoencoder's file or an artifact.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from kontext.data.sources.external import file_digests
from kontext.errors import RecipeError
from kontext.train.perceptual import file_digest
from schemas.sections.models import TransformerShape
from schemas.sections.training import AutoencoderConfig, FinetuneConfig

if TYPE_CHECKING:
    from kontext.models.autoencoder import Autoencoder
    from kontext.models.transformer import FluxTransformer
    from kontext.stage import StageContext
    from kontext.store.artifacts import ArtifactStore

LORA = "lora.safetensors"
_ARTIFACT = re.compile(r"([a-z-]+)/([0-9a-f]{16})")
_TOLD_BY_TENSORS = set(TransformerShape.model_fields) - {
    "num_heads",
    "axes_dim",
    "theta",
    "timestep_shift",
}


def codec_fingerprint(config: AutoencoderConfig, home: Path | None = None) -> str:
    """SHA-256 over the files that an autoencoder's section points to; empty where there are none.

    Raises:
        RecipeError: nothing there.
        OSError: a file cannot be read.
    """
    found = ""
    if config.init and not _ARTIFACT.fullmatch(config.init):
        path = Path(config.init).expanduser()
        if not path.is_file():
            raise RecipeError(
                f"autoencoder.init: '{config.init}' is neither a file nor an artifact "
                "(train-autoencoder/digest)"
            )
        with file_digests(home) as digests:
            found = digests.of(path)
    backbone = file_digest(config)
    return f"{found} {backbone}".strip()


def starting_codec(ctx: StageContext, config: AutoencoderConfig) -> Autoencoder | None:
    """The autoencoder to train further, float32, with its scale and shift; None: a fresh one.

    Raises:
        RecipeError: no weights there, or of another shape than the recipe's.
        WeightsError: damaged, or keys that are no autoencoder's.
    """
    if not config.init:
        return None
    import torch

    from kontext.models.autoencoder import Autoencoder
    from kontext.models.recognise import recognise
    from kontext.models.weights import load_weights

    found = _ARTIFACT.fullmatch(config.init)
    if found is None:
        path = Path(config.init).expanduser()
        shape = recognise(path).autoencoder.shape
        with torch.device("meta"):
            model = Autoencoder(shape)  # FLUX.1's scale and shift, unless a stage measures others
    else:
        artifact = _store(ctx).open(*found.groups())
        path = artifact.path("autoencoder.safetensors")
        with torch.device("meta"):
            model = Autoencoder.from_config(artifact.json("config.json"))
    if model.shape != config.shape:
        raise RecipeError(f"autoencoder.init: {config.init} is not of autoencoder.shape")
    load_weights(model, path, torch.float32)
    for parameter in model.parameters():  # memory of our own: training writes into it
        parameter.data = parameter.data.clone()
    ctx.output.metric("init", config.init)
    return model


def _store(ctx: StageContext) -> ArtifactStore:
    from kontext.store.artifacts import ArtifactStore
    from kontext.store.objects import open_store

    return ArtifactStore(open_store(ctx.store_url), ctx.home / "cache" / "blobs")


def fingerprint(config: FinetuneConfig, home: Path | None = None) -> str:
    """SHA-256 over the bytes that `finetune.init` points to on disk; empty where it does not.

    An artifact names its own content. Files are read once, as those of ingest's folders are.

    Raises:
        RecipeError: nothing there.
        OSError: a file cannot be read.
    """
    if not config.init or _ARTIFACT.fullmatch(config.init):
        return ""
    path = _on_disk(config.init)
    kinds = (".safetensors", ".json")
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.suffix in kinds)
    digest = hashlib.sha256()
    with file_digests(home) as digests:
        for file in files:
            digest.update(f"{file.name}\x1f{digests.of(file)}\n".encode())
    return digest.hexdigest()


def starting_model(ctx: StageContext, config: FinetuneConfig) -> FluxTransformer | None:
    """The model to train, float32; None where the recipe starts from noise.

    With `lora_rank` only the adapters beside its layers train.

    Raises:
        RecipeError: no weights there, or of another shape than the recipe's.
        WeightsError: damaged, or keys that are no transformer's.
    """
    if not config.init:
        return None
    import torch

    from kontext.models.lora import LoraConfig, apply_lora
    from kontext.models.transformer import FluxTransformer
    from kontext.models.weights import load_weights

    path = _weights(ctx, config.init)
    _check_shape(path, config)
    with torch.device("meta"):
        model = FluxTransformer(config.shape)
    load_weights(model, path, torch.float32)
    for parameter in model.parameters():  # memory of our own: training writes into it
        parameter.data = parameter.data.clone()
    ctx.output.metric("init", config.init)
    ctx.note(f"finetune starts from {config.init}; its autoencoder is not compared with encode's")
    if config.lora_rank:
        apply_lora(model, LoraConfig(rank=config.lora_rank, seed=config.seed))
        ctx.output.metric("lora_rank", config.lora_rank)
    return model


def save_adapters(ctx: StageContext, config: FinetuneConfig, model: FluxTransformer) -> None:
    """Store trained adapters in diffusers' keys and merge them, so that later stages see weights.

    Does nothing without `lora_rank`.
    """
    if not config.lora_rank:
        return
    from kontext.models.lora import lora_of, merge
    from kontext.models.lora_files import save_lora

    save_lora(lora_of(model), ctx.scratch / LORA, model)
    ctx.output.add_file(LORA, ctx.scratch / LORA)
    merge(model)


def _on_disk(init: str) -> Path:
    """The file or folder with the transformer's tensors."""
    path = Path(init).expanduser()
    if not path.exists():
        raise RecipeError(
            f"finetune.init: '{init}' is neither a file, a folder nor an artifact (stage/digest)"
        )
    from kontext.sample.imports import find_transformer

    return find_transformer(path)


def _weights(ctx: StageContext, init: str) -> Path:
    found = _ARTIFACT.fullmatch(init)
    if found is None:
        return _on_disk(init)
    from kontext.sample.imports import artifact_transformer

    return artifact_transformer(_store(ctx).open(*found.groups()))


def _check_shape(path: Path, config: FinetuneConfig) -> None:
    """Compare the file's measures with the recipe's before anything is loaded."""
    import torch

    from kontext.models.recognise import recognise
    from kontext.models.transformer import FluxTransformer

    with torch.device("meta"):
        wanted = FluxTransformer(config.shape)
    if not recognise(path, wanted).problems:
        return
    own = recognise(path).transformer.shape.model_dump()
    differs = [
        f"{name} {own[name]} for {value}"
        for name, value in config.shape.model_dump().items()
        if own[name] != value and name in _TOLD_BY_TENSORS
    ]
    raise RecipeError(
        f"finetune.init: {config.init} is not of finetune.shape: "
        f"{', '.join(differs) or 'its keys differ (kontext doctor lists them)'}"
    )
