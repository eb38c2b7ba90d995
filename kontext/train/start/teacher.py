"""The teacher that later stages take: finetune's, or what safety training made of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from kontext.models.files.weights import Entry, bfl_entries, in_stored_dtypes
from kontext.models.flux.transformer import FluxTransformer, load_transformer
from schemas.sections.models import TransformerShape

if TYPE_CHECKING:
    from kontext.store.artifacts.artifact_store import Artifact

FLOW = "flow.safetensors"


def teacher_of(inputs: Mapping[str, Artifact]) -> Artifact:
    """The artifact with the teacher's weights, in its file `FLOW`, of those that a stage takes.

    That of exclude where the recipe excludes something: then nothing is made of finetune's.
    """
    return inputs["exclude"] if "exclude" in inputs else inputs["finetune"]


def model_stage(inputs: Mapping[str, Artifact]) -> str:
    """The stage that made the model of a run: distill, or the teacher's where there is no student.

    Args:
        inputs: of a stage that takes both.
    """
    return next(name for name in ("distill", "exclude", "finetune") if name in inputs)


def stored_teacher(inputs: Mapping[str, Artifact]) -> tuple[FluxTransformer, list[Entry]]:
    """The teacher's network on the meta device, and its weights, which can be read row by row.

    Raises WeightsError: damaged, or of another shape.
    """
    artifact = teacher_of(inputs)
    shape = TransformerShape.model_validate(artifact.json("config.json")["shape"])
    with torch.device("meta"):
        model = FluxTransformer(shape)
    entries = bfl_entries(artifact.path(FLOW), model)
    return in_stored_dtypes(model, entries), entries


def load_teacher(inputs: Mapping[str, Artifact], device: torch.device) -> FluxTransformer:
    """The teacher's network, frozen. Raises WeightsError: damaged, or of another shape."""
    return load_transformer(teacher_of(inputs), FLOW, device)
