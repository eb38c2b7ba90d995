"""A model folder from what a training stage made: its weights, and what its artifacts say of it.

Nothing has to be evaluated or published first.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kontext.edit.sizes import size_rule
from kontext.edit.weights.folder import AUTOENCODER, TRANSFORMER, ModelSettings, write_config
from kontext.engine.stage import section_of
from kontext.errors import WeightsError
from kontext.train.start.text import text_of
from schemas.sections.data import IngestConfig
from schemas.sections.evaluation import EvaluateConfig
from schemas.sections.models import TransformerShape
from schemas.sections.training import DistillConfig, EncodeConfig, FinetuneConfig

if TYPE_CHECKING:
    from kontext.store.artifacts.artifact_store import Artifact, ArtifactStore
    from schemas.manifest import Manifest

CHANGES_RESULTS = False  # puts together what is there

_WEIGHTS = ("student.safetensors", "flow.safetensors")  # of distill; of finetune and exclude
_LEDGER, _TEXT = "ledger.json", "text: encoder sha256"
_NEEDED = ("ingest", "train-autoencoder", "encode", "finetune")
_FLUX_STEPS, _FLUX_GUIDANCE = 28, 2.5  # FLUX.1 Kontext [dev]'s


def is_trained(artifact: Artifact) -> bool:
    """Whether an artifact holds the weights of a training stage."""
    return any(name in artifact.names() for name in _WEIGHTS)


def trained_folder(store: ArtifactStore, made: Artifact, folder: Path) -> Path:
    """Write a model folder of finetune's, exclude's or distill's artifact; returns `folder`.

    Weights are linked, not copied.

    Raises:
        WeightsError: an artifact that it was made from is gone.
    """
    from kontext.store.artifacts.lineage import ancestors  # it needs pyarrow

    known = {(m.stage, m.digest): m for m in store.list()}
    found = {stage: known[stage, digest] for stage, digest in ancestors(known, {_ref(made)})}
    if gone := [stage for stage in _NEEDED if stage not in found]:
        raise WeightsError(
            f"{made.stage}/{made.digest}: the artifact of {gone[0]} that it was made from is gone"
        )
    codec = store.open(*_ref(found["train-autoencoder"]))
    shape = TransformerShape.model_validate(made.json("config.json")["shape"])
    folder.mkdir(parents=True)
    weights = next(name for name in _WEIGHTS if name in made.names())
    (folder / TRANSFORMER).symlink_to(made.path(weights).resolve())
    (folder / AUTOENCODER).symlink_to(codec.path("autoencoder.safetensors").resolve())
    encoded = store.open(*_ref(found["encode"]))
    settings = _settings(made, found, encoded, shape)
    write_config(folder, settings, shape, codec.json("config.json"))
    return folder


def _ref(made: Artifact | Manifest) -> tuple[str, str]:
    return made.stage, made.digest


def _settings(
    made: Artifact, found: dict[str, Manifest], encoded: Artifact, shape: TransformerShape
) -> ModelSettings:
    ingested = section_of(found["ingest"], IngestConfig)
    sizes = size_rule(ingested)
    steps = _FLUX_STEPS if sizes == "kontext" else EvaluateConfig().teacher_steps
    guidance = 1.0
    if made.stage == "distill":
        steps = section_of(found["distill"], DistillConfig).student_steps
    elif shape.guidance_embed:
        told = section_of(found["finetune"], FinetuneConfig).guidance_told
        guidance = _FLUX_GUIDANCE if told == (1.0, 1.0) else sum(told) / 2
    ledger = encoded.json(_LEDGER) if encoded.names(_LEDGER) else {}
    return ModelSettings(
        name=f"{made.manifest.recipe}-{made.stage}",
        text_encoder=text_of(encoded),
        text_digest=ledger.get(_TEXT, ""),
        text_length=section_of(found["encode"], EncodeConfig).text_length,
        resolution=ingested.resolution,
        sizes=sizes,
        steps=steps,
        guidance=guidance,
    )
