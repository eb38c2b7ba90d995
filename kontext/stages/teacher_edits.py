"""The teacher's synthetic edits: the costly half of a distillation, kept apart from its settings.

Edits are made in shards of a fixed size. A shard's bytes depend on the version (teacher, encoded
data, steps, guidance, seed, code, arithmetic and which pairs) and its number alone, so shards lie
under their version in the home folder's cache: a killed run makes only what is missing, and a run
with other LADD settings makes none. They also go into the artifact.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from kontext.data.banks import Entries, MappedRows, write_bank
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
BANK = "teacher-edits"
DESCRIPTION = "teacher_edits.json"


def synthesise(
    ctx: StageContext,
    sampler: EditSampler,
    edits: Tensor,
    teacher: FluxTransformer,
    ledger: Mapping[str, str],
) -> tuple[MappedRows, Path]:
    """Guided edits [E, C, h, w] of the teacher for pairs `edits` [E], and the folder they lie in.

    Shards that are there already are taken, the others made. Adds the bank of all edits and its
    description to the artifact.

    Args:
        ledger: the run's numerics; its arithmetic is part of the version.
    """
    version = _version(ctx, sampler, edits, ledger)
    folder = ctx.home / "cache" / "teacher-edits" / version
    folder.mkdir(parents=True, exist_ok=True)
    made = 0

    def make(rows: range) -> dict[str, Tensor]:
        nonlocal made
        made += 1
        pairs = edits[rows.start : rows.stop].clone()
        ctx.report.progress(rows.start, 2 * len(edits), "teacher edits")
        return {"latents": sampler.edits(teacher, pairs).cpu(), "pairs": pairs}

    entries = Entries([str(pair) for pair in edits.tolist()], version)
    bank = write_bank(ctx.output, folder, BANK, entries, SHARD, make)
    shards = -(-len(edits) // SHARD)
    ctx.log.info("teacher edits %s: %d shards, %d made now", version, shards, made)
    ctx.output.add_json(
        DESCRIPTION,
        {
            "version": version,
            "shards": shards,
            "edits": len(edits),
            "steps": sampler.steps,
            "guidance": sampler.guidance,
            "seed": sampler.seed,
        },
    )
    return bank.tensors["latents"], folder


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
