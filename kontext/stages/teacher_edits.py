"""The teacher's synthetic edits: the costly half of a distillation, kept apart from its settings.

Edits are made in shards of a fixed size. A shard's bytes depend on the version (teacher, encoded
data, steps, guidance, seed, code, arithmetic and which pairs) and its number alone, so shards lie
under their version in the home folder's cache: a killed run makes only what is missing, and a run
with other LADD settings makes none. The whole set also goes into the artifact.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kontext.models.transformer import FluxTransformer
from kontext.sample.edits import EditSampler
from kontext.stage import StageContext
from kontext.store.code import code_digest
from kontext.train.ledger import ARITHMETIC

_CODE = (
    "kontext.sample.edits",
    "kontext.sample.euler",
    "kontext.train.timesteps",
    "kontext.models.transformer",
    "kontext.models.blocks",
    "kontext.models.heads",
    "kontext.models.sequence",
)
SHARD = 64  # edits per shard, and per batch of the sampler
EDITS = "teacher_edits.safetensors"
DESCRIPTION = "teacher_edits.json"


def synthesise(
    ctx: StageContext,
    sampler: EditSampler,
    edits: Tensor,
    teacher: FluxTransformer,
    ledger: Mapping[str, str],
) -> Tensor:
    """Guided edits [E, C, h, w] of the teacher for pairs `edits` [E], on the CPU.

    Shards that are there already are read, the others made. Adds the set and its description to
    the artifact.

    Args:
        ledger: the run's numerics; its arithmetic is part of the version.
    """
    version = _version(ctx, sampler, edits, ledger)
    folder = ctx.home / "cache" / "teacher-edits" / version
    folder.mkdir(parents=True, exist_ok=True)
    parts = [edits[start : start + SHARD] for start in range(0, len(edits), SHARD)]
    made = 0
    for number, pairs in enumerate(parts):
        path = folder / f"{number:06d}.safetensors"
        if not path.exists():
            _write(path, {"latents": sampler.edits(teacher, pairs).cpu(), "pairs": pairs.clone()})
            made += 1
        done = min(len(edits), (number + 1) * SHARD)
        ctx.report.progress(done, 2 * len(edits), "teacher edits")
    ctx.log.info("teacher edits %s: %d shards, %d made now", version, len(parts), made)
    shards = [load_file(folder / f"{number:06d}.safetensors") for number in range(len(parts))]
    latents = torch.cat([shard["latents"] for shard in shards])
    whole = ctx.scratch / EDITS
    _write(whole, {"latents": latents, "pairs": edits.clone()})
    ctx.output.add_file(EDITS, whole)
    ctx.output.add_json(
        DESCRIPTION,
        {
            "version": version,
            "shards": len(parts),
            "edits": len(edits),
            "steps": sampler.steps,
            "guidance": sampler.guidance,
            "seed": sampler.seed,
        },
    )
    return latents


def _version(
    ctx: StageContext, sampler: EditSampler, edits: Tensor, ledger: Mapping[str, str]
) -> str:
    made_of = {
        "teacher": ctx.inputs["finetune"].manifest.file("flow.safetensors").sha256,
        "encoded": ctx.inputs["encode"].digest,
        "steps": sampler.steps,
        "guidance": sampler.guidance,
        "seed": sampler.seed,
        "shard": SHARD,
        "pairs": hashlib.sha256(edits.numpy().tobytes()).hexdigest(),
        "arithmetic": {name: ledger.get(name, "") for name in ARITHMETIC},
        "torch": torch.__version__,
        "code": code_digest(_CODE),
    }
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:24]


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    """Whole or not at all."""
    partial = path.with_suffix(".partial")
    save_file(tensors, partial)
    partial.replace(path)
