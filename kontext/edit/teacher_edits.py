"""The teacher's synthetic edits: the costly half of a distillation, kept apart from its settings.

A shard's bytes depend on the version (teacher, encoded data, steps, guidance, seed, code,
arithmetic and which pairs) and its number alone, so shards lie under their version in the home
folder's cache: a killed run makes only what is missing, and a run with other LADD settings none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kontext.data.buckets import MULTIPLE
from kontext.data.encoded.pair_tensors import PairTensors, sizes_of
from kontext.edit.pairs import EditSampler, choose_edits, edit_sampler
from kontext.models.flux.transformer import FluxTransformer
from kontext.parallel.ranks.inputs import Inputs
from kontext.parallel.ranks.launch import on_ranks
from kontext.parallel.ranks.rank import Rank
from kontext.train.ladd.student import TEACHER_EDITS
from kontext.train.record.ledger import ARITHMETIC
from kontext.train.start.teacher import FLOW, load_teacher, teacher_of
from schemas.sections.training import DistillConfig

if TYPE_CHECKING:
    from kontext.data.encoded.banks import Entries
    from kontext.engine.stage import StageContext

CODE = "kontext.edit.pairs"  # with all that it imports: what decides an edit
SHARD = 64  # edits per shard, and per batch of the sampler
_TOKENS = 2**16  # per batch of the sampler, at most


def synthesise(
    ctx: StageContext,
    sampler: EditSampler,
    edits: Tensor,
    teacher: FluxTransformer,
    ledger: Mapping[str, str],
    inputs: Inputs,
) -> Path:
    """Have the teacher edit pairs `edits` [E]; returns the folder with the bank of all edits.

    Shards that are there already are taken, the others made, on ranks where the recipe asks for
    them. Adds the bank and its description to the artifact.

    Args:
        ledger: the run's numerics; its arithmetic is part of the version.
    """
    from kontext.data.encoded.banks import write_bank

    version = _version(ctx, sampler, edits, ledger)
    folder = ctx.home / "cache" / "teacher-edits" / version
    folder.mkdir(parents=True, exist_ok=True)
    entries = _entries(sampler.data, edits, version)
    shards = len(entries.parts(SHARD))
    missing = shards - len(list(folder.glob("*.safetensors")))

    def on_the_way(done: int, total: int, _: Mapping[str, float | None]) -> None:
        ctx.report.progress(done, 2 * total, "teacher edits")

    if missing:
        config = ctx.config
        assert isinstance(config, DistillConfig)
        shared = inputs.using(files={TEACHER_EDITS: folder})
        on_ranks(
            edit_on_rank,
            config,
            shared,
            on_the_way,
            name="edit-ranks",
            stop=ctx.stop,
            version=version,
        )

    def make(rows: range) -> dict[str, Tensor]:
        ctx.report.progress(rows.start, 2 * len(edits), "teacher edits")
        return _made(sampler, teacher, edits, rows)

    write_bank(ctx.output, folder, TEACHER_EDITS, entries, SHARD, make, ctx.stop)
    ctx.log.info("teacher edits %s: %d shards, %d made now", version, shards, missing)
    counts = {"version": version, "shards": shards, "edits": len(edits)}
    ctx.output.add_json("teacher_edits.json", {**counts, **_drawn_with(sampler)})
    return folder


def edit_on_rank(rank: Rank, config: DistillConfig, inputs: Inputs, *, version: str) -> None:
    """A rank's shards of the teacher's edits: each rank makes whole shards, alone."""
    from kontext.data.encoded.banks import make_shards
    from kontext.data.encoded.latents import load_pairs

    world = rank.world
    data = load_pairs(inputs["encode"], "train", world.device)
    model = load_teacher(inputs.artifacts, world.device)
    edits, sampler = choose_edits(data, config), edit_sampler(config, data)

    def make(rows: range) -> dict[str, Tensor]:
        rank.check()
        made = _made(sampler, model, edits, rows)
        rank.progress(rows.stop, len(edits), {})
        return made

    entries, folder = _entries(data, edits, version), inputs.files[TEACHER_EDITS]
    make_shards(folder, TEACHER_EDITS, entries, SHARD, make, world.rank, world.size)


def _drawn_with(sampler: EditSampler) -> dict[str, float]:
    return {"steps": sampler.steps, "guidance": sampler.guidance, "seed": sampler.seed}


def _entries(data: PairTensors, edits: Tensor, version: str) -> Entries:
    from kontext.data.encoded.banks import Entries

    sizes = [(MULTIPLE * columns, MULTIPLE * rows) for rows, columns in sizes_of(data, edits)]
    return Entries([str(pair) for pair in edits.tolist()], version, sizes=sizes)


def _made(
    sampler: EditSampler, teacher: FluxTransformer, edits: Tensor, rows: range
) -> dict[str, Tensor]:
    pairs = edits[rows.start : rows.stop].clone()
    alike = sampler.data.by_shape(pairs)
    groups = [pairs[own] for own in alike]
    parts = [few for own in groups for few in torch.split(own, _at_once(sampler, own))]
    made = torch.cat([sampler.edits(teacher, few).cpu() for few in parts])
    return {"latents": made[torch.cat(alike).argsort()], "pairs": pairs}


def _at_once(sampler: EditSampler, pairs: Tensor) -> int:
    """How many of some edits of one shape are drawn together."""
    return max(1, _TOKENS // sampler.data.lengths(pairs).count)


def _version(
    ctx: StageContext, sampler: EditSampler, edits: Tensor, ledger: Mapping[str, str]
) -> str:
    from kontext.engine.fingerprint import code_digest, modules_of

    made_of = {
        "teacher": teacher_of(ctx.inputs).manifest.file(FLOW).sha256,
        "encoded": ctx.inputs["encode"].digest,
        **_drawn_with(sampler),
        "shard": SHARD,
        "pairs": hashlib.sha256(edits.numpy().tobytes()).hexdigest(),
        "arithmetic": {name: ledger.get(name, "") for name in ARITHMETIC},
        "torch": torch.__version__,
        "code": code_digest(modules_of(CODE)),
    }
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:24]
