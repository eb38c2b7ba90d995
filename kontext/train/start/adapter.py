"""The adapters that a recipe goes on from: a LoRA file in any keys, or those of a finetune."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from kontext.errors import RecipeError, WeightsError
from kontext.models.files.lora_files import LoraFile, load_lora, open_lora
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.lora import LoraInfo, given_adapters, linear_layers
from kontext.train.start.given import OpenArtifact, names_artifact, open_given, require
from schemas.sections.training import FinetuneConfig

if TYPE_CHECKING:
    from pathlib import Path

    from kontext.engine.stage import StageContext

LORA = "lora.safetensors"  # among finetune's files


class GivenAdapter(NamedTuple):
    """Adapters to train on: where they lie, their rank, and what their file says about itself."""

    path: Path
    rank: int
    info: LoraInfo


def starting_adapter(
    ctx: StageContext, config: FinetuneConfig, model: FluxTransformer
) -> GivenAdapter | None:
    """What `weights.adapter` names, for a transformer on the meta device; None: new adapters.

    Raises:
        RecipeError: nothing there, or another rank or other layers than the recipe's.
        ArtifactError, WeightsError: damaged, for another model, zero or not finite.
    """
    said = ctx.weights.adapter
    if not said:
        return None
    path = _place(said, partial(open_given, ctx))
    file = open_lora(path, model)
    check_adapter(file, config, model)
    lora = load_lora(path, model)
    given_adapters(lora)  # refuses what cannot be trained
    for note in lora.notes():
        ctx.note(note)
    ctx.note(f"finetune goes on from the adapters of {said}, of rank {file.rank}")
    if lora.info.base.rpartition("/")[2] not in ctx.weights.transformer:
        ctx.note(f"{said} says that its adapters were made for {lora.info.base}")
    ctx.output.metric("adapter", said)
    return GivenAdapter(path, file.rank, lora.info)


def adapter_at(said: str, open_artifact: OpenArtifact, model: FluxTransformer) -> LoraFile:
    """The file of adapters for a transformer, which may be on the meta device; none is read.

    Raises:
        RecipeError: nothing there.
        ArtifactError, WeightsError: no adapters, damaged, or for another model.
    """
    return open_lora(_place(said, open_artifact), model)


def check_adapter(file: LoraFile, config: FinetuneConfig, model: FluxTransformer) -> None:
    """Compare adapters with what the recipe says of them.

    Raises RecipeError: another rank, or other layers.
    """
    if config.lora_rank not in (0, file.rank):
        raise RecipeError(
            f"weights.adapter has rank {file.rank}, and finetune.lora_rank is {config.lora_rank}: "
            "with finetune.lora_rank=0 training goes on at the file's rank"
        )
    if not config.lora_targets:
        return
    asked, there = set(linear_layers(model, config.lora_targets)), set(file.targets)
    if asked != there:
        lists = ((asked - there, "not in the file"), (there - asked, "not in the recipe"))
        said = [f"{len(names)} {what} ({min(names)}, …)" for names, what in lists if names]
        raise RecipeError(
            f"weights.adapter has other layers than finetune.lora_targets: {', '.join(said)}; "
            "without lora_targets training goes on with the file's"
        )


def _place(said: str, open_artifact: OpenArtifact) -> Path:
    if not names_artifact(said):
        return require("adapter", said)
    artifact = open_artifact(said)
    if LORA not in artifact.names():
        raise WeightsError(
            f"weights.adapter: {said} has no {LORA}: take a finetune that trained adapters"
        )
    return artifact.path(LORA)
