"""Who is scored: the student, the teacher, and reference editors that show what a figure means."""

import hashlib
from dataclasses import dataclass

import numpy as np

from kontext.evaluate.benches.held_out import Bench
from kontext.evaluate.models import TrainedModels
from kontext.evaluate.pixels import Images


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
    contexts = [[image] for image in bench.context]
    height, width = bench.target.shape[1:3]
    student, teacher = models.student, models.teacher
    outputs = {
        "student": models.edit(student, contexts, instructions, ids),
        "teacher": models.edit(teacher, contexts, instructions, ids),
        "student_decoded": models.edit(student, contexts, instructions, ids, keep_detail=False),
        "codec_target": models.ceiling(bench.target, bench.context),
        "codec": models.round_trip(bench.context),
        "prompt_only": models.edit(teacher, [[] for _ in ids], captions, ids, (width, height)),
        "random": other_targets(bench, seed),
        "identity": bench.context,
        "oracle": bench.target,
    }
    assert list(outputs) == list(EDITORS)
    assert all(made.shape == bench.target.shape for made in outputs.values())
    return outputs
