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
from typing import Any

import torch
from torch import Tensor

from kontext.data.banks import Entries, MappedRows, make_shards, write_bank
from kontext.data.latents import load_pairs
from kontext.fingerprint import code_digest, modules_of
from kontext.models.trained import load_transformer
from kontext.models.transformer import FluxTransformer
from kontext.parallel.memory import keep_freed_memory
from kontext.sample.edits import EditSampler, choose_edits, edit_sampler
from kontext.stage import StageContext
from kontext.stages.ranks import on_ranks, open_input
from kontext.train.ledger import ARITHMETIC
from kontext.train.rank import Rank
from schemas.train_config import DistillConfig

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
    shards = -(-len(edits) // SHARD)
    missing = shards - len(list(folder.glob("*.safetensors")))
    if missing:
        _make_on_ranks(ctx, version, folder)

    def make(rows: range) -> dict[str, Tensor]:
        ctx.report.progress(rows.start, 2 * len(edits), "teacher edits")
        return _made(sampler, teacher, edits, rows)

    bank = write_bank(ctx.output, folder, BANK, _entries(edits, version), SHARD, make)
    ctx.log.info("teacher edits %s: %d shards, %d made now", version, shards, missing)
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


def _make_on_ranks(ctx: StageContext, version: str, folder: Path) -> None:
    """What is missing, by the ranks that the recipe asks for: each makes whole shards, alone."""
    config = ctx.config
    assert isinstance(config, DistillConfig)
    if config.launch.launcher == "in-process":
        return

    def progress(done: int, total: int, _: Mapping[str, float | None]) -> None:
        ctx.report.progress(done, 2 * total, "teacher edits")

    on_ranks(
        ctx,
        config,
        progress,
        edit_on_rank,
        name="edit-ranks",
        encoded=ctx.inputs["encode"].digest,
        teacher=ctx.inputs["finetune"].digest,
        version=version,
        folder=str(folder),
    )


def edit_on_rank(
    rank: Rank,
    *,
    config: dict[str, Any],
    store: str,
    cache: str,
    encoded: str,
    teacher: str,
    version: str,
    folder: str,
) -> None:
    """A rank's shards of the teacher's edits; `folder` is on a disk that all ranks see."""
    section, world = DistillConfig.model_validate(config), rank.world
    keep_freed_memory()
    data = load_pairs(open_input(store, cache, "encode", encoded), "train", world.device)
    tuned = open_input(store, cache, "finetune", teacher)
    model = load_transformer(tuned, "flow.safetensors", world.device)
    edits, sampler = choose_edits(data, section), edit_sampler(section, data)

    def make(rows: range) -> dict[str, Tensor]:
        rank.check()
        made = _made(sampler, model, edits, rows)
        rank.progress(rows.stop, len(edits), {})
        return made

    entries = _entries(edits, version)
    make_shards(Path(folder), BANK, entries, SHARD, make, world.rank, world.size)


def _entries(edits: Tensor, version: str) -> Entries:
    return Entries([str(pair) for pair in edits.tolist()], version)


def _made(
    sampler: EditSampler, teacher: FluxTransformer, edits: Tensor, rows: range
) -> dict[str, Tensor]:
    pairs = edits[rows.start : rows.stop].clone()
    return {"latents": sampler.edits(teacher, pairs).cpu(), "pairs": pairs}


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
        "code": code_digest(modules_of("kontext.sample.edits")),
    }
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:24]
