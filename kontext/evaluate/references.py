"""Who is scored: the student, the teacher, and editors that show what a figure means.

Some of those have a known truth, by which the definition of success is judged itself: it must let
the right edits pass, and refuse the wrong ones.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kontext.evaluate.benches.held_out import Bench, resized
from kontext.evaluate.false_editors import TrainingEdits, run_false_editors
from kontext.evaluate.models import TrainedModels
from kontext.evaluate.pixels import Images, as_images, in_order
from kontext.evaluate.wordings import reworded


@dataclass(frozen=True)
class EditorSpec:
    """How an editor is called in tables, and what success must say of it, where that is known."""

    title: str
    what: str
    must: Literal["pass", "fail", ""] = ""


def _false(title: str, what: str) -> EditorSpec:
    return EditorSpec(title, what, "fail")


EDITORS: dict[str, EditorSpec] = {
    "student": EditorSpec("Student", "edits in a few steps, the distilled model"),
    "teacher": EditorSpec("Teacher", "edits in many steps, the model it was distilled from"),
    "teacher_short": EditorSpec(
        "Teacher, few steps", "is the teacher in the student's few steps: what distillation gained"
    ),
    "student_reworded": EditorSpec(
        "Student, other words", "is the student asked in words that training has not seen"
    ),
    "codec_target": EditorSpec(
        "Ceiling", "is the target through the autoencoder: the best that latents can give", "pass"
    ),
    "codec": _false("Round trip", "is the context through the autoencoder, unedited"),
    "prompt_only": EditorSpec(
        "Prompt only", "is the teacher given the target's caption and no context"
    ),
    "random": _false("Random", "is some other target of the bench"),
    "identity": _false("Identity", "returns the context untouched"),
    "oracle": EditorSpec("Oracle", "returns the target", "pass"),
    "ghost_31": _false("Ghost, 31 %", "is 31 % of the target over the context"),
    "ghost_51": _false("Ghost, 51 %", "is 51 % of the target over the context"),
    "blurred": _false("Blurred target", "is the target blurred by 3 px of 64"),
    "filled": _false("Mean fill", "fills what should change with the target's mean colour"),
    "half": _false("Half done", "is the target in the upper half of what should change"),
    "stray": _false("Stray patch", "is the target with a patch of another picture outside"),
    "other_choice": _false("Other choice", "is another edit of the same kind"),
    "nearest": _false("Nearest training target", "is the target of the likest training edit"),
    "mean_nearest": _false("Mean of 8 targets", "is the mean of the eight likest ones"),
    "pasted": _false("Pasted difference", "adds the likest training edit's difference"),
    "palette": _false("Palette swap", "replaces colours as the eight likest training edits did"),
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
    if len(bench.parts) == 1:
        return bench.target[np.array(picked, np.int64)]
    sizes = [(target.shape[1], target.shape[0]) for target in bench.target]
    return as_images(
        [resized(bench.target[j], size) for j, size in zip(picked, sizes, strict=True)]
    )


def run_editors(
    bench: Bench, models: TrainedModels, training: TrainingEdits, seed: int
) -> dict[str, Images]:
    """Outputs of every editor on every item, in the order of EDITORS."""
    instructions = [item.instruction for item in bench.items]
    others = [reworded(item) for item in bench.items]
    ids = [item.pair_id for item in bench.items]
    contexts = [[image] for image in bench.context]
    student, teacher = models.student, models.teacher
    made = models.edit(student, contexts, instructions, ids)
    slow = short = made
    if teacher is not student:
        slow = models.edit(teacher, contexts, instructions, ids)
        short = models.edit(teacher, contexts, instructions, ids, steps=models.few_steps)
    outputs = {
        "student": made,
        "teacher": slow,
        "teacher_short": short,
        "student_reworded": models.edit(student, contexts, others, ids),
        "codec_target": models.round_trip(bench.target),
        "codec": models.round_trip(bench.context),
        "prompt_only": _from_words(bench, models),
        "random": other_targets(bench, seed),
        "identity": bench.context,
        "oracle": bench.target,
        **run_false_editors(bench, training),
    }
    assert list(outputs) == list(EDITORS)
    assert all(
        one.shape == target.shape
        for made in outputs.values()
        for one, target in zip(made, bench.target, strict=True)
    )
    return outputs


def _from_words(bench: Bench, models: TrainedModels) -> Images:
    """What the teacher draws from the targets' captions alone, at their sizes."""
    made = []
    for _, part in bench.parts:
        captions = [item.target_caption for item in part.items]
        ids = [item.pair_id for item in part.items]
        drawn = models.edit(models.teacher, [[] for _ in ids], captions, ids, part.sizes[0])
        made.append(drawn)
    rows = [rows for rows, _ in bench.parts]
    return made[0] if len(made) == 1 else as_images(in_order(rows, made))
