"""Who is scored: the student, the teacher, and reference editors that show what a figure means."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kontext.evaluate.benches.held_out import Bench
from kontext.evaluate.pixels import Images

if TYPE_CHECKING:
    from kontext.evaluate.models import TrainedModels


@dataclass(frozen=True)
class EditorSpec:
    """How an editor is called in tables."""

    title: str
    what: str


EDITORS: dict[str, EditorSpec] = {
    "student": EditorSpec("Student", "edits in a few steps, the distilled model"),
    "teacher": EditorSpec("Teacher", "edits in many steps, the model it was distilled from"),
    "student_decoded": EditorSpec(
        "Student, as decoded", "is the student without what the autoencoder lost given back"
    ),
    "codec_target": EditorSpec(
        "Ceiling", "is the target in place of the edit's latents: the best that they can give"
    ),
    "codec": EditorSpec("Round trip", "is the context through the autoencoder, unedited"),
    "prompt_only": EditorSpec(
        "Prompt only", "is the teacher given the target's caption and no context"
    ),
    "random": EditorSpec("Random", "is some other target of the bench"),
    "identity": EditorSpec("Identity", "returns the context untouched, and must fail"),
    "oracle": EditorSpec("Oracle", "returns the target, and must pass"),
}
SEES_TARGET = frozenset({"oracle", "codec_target"})


def other_targets(bench: Bench, seed: int) -> Images:
    """For each item another item's target, from another cluster wherever there is one."""
    picked = []
    for i, item in enumerate(bench.items):
        others = [j for j, other in enumerate(bench.items) if other.cluster != item.cluster]
        others = others or [j for j in range(len(bench)) if j != i] or [i]
        draw = hashlib.sha256(f"{seed}:{item.pair_id}:other".encode()).digest()
        picked.append(others[int.from_bytes(draw[:8], "big") % len(others)])
    return bench.target[np.array(picked, np.int64)]


def run_editors(bench: Bench, models: TrainedModels, seed: int) -> dict[str, Images]:
    """Outputs of every editor on every item, in the order of EDITORS."""
    instructions = [item.instruction for item in bench.items]
    captions = [item.target_caption for item in bench.items]
    ids = [item.pair_id for item in bench.items]
    side = (bench.target.shape[1], bench.target.shape[2])
    outputs = {
        "student": models.student_edit(bench.context, instructions, ids),
        "teacher": models.teacher_edit(bench.context, instructions, ids),
        "student_decoded": models.student_decoded(bench.context, instructions, ids),
        "codec_target": models.ceiling(bench.target, bench.context),
        "codec": models.round_trip(bench.context),
        "prompt_only": models.teacher_text_to_image(side, captions, ids),
        "random": other_targets(bench, seed),
        "identity": bench.context,
        "oracle": bench.target,
    }
    assert list(outputs) == list(EDITORS)
    assert all(made.shape == bench.target.shape for made in outputs.values())
    return outputs
