"""Who edits the scripts, and how a turn gets what the turn before has made."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kontext.edit.request import Edit, Options
from kontext.edit.turns import first_latents, next_turn, shown
from kontext.evaluate.drift.scripts import TURNS, Scripts
from kontext.evaluate.models import TrainedModels
from kontext.evaluate.pixels import Picture, as_images, blurred, channel_means

JPEG_QUALITY = 95
UNCHANGED, _AROUND, _SIDE = 0.03, 1.5, 64  # blurred over so many pixels of a picture of 64
Chain = list[list[Picture]]  # by turn, then by script: the picture after the turn
Step = Callable[[Sequence[Picture], int], Sequence[Picture]]  # of all scripts: what a turn makes


@dataclass(frozen=True)
class ChainSpec:
    """How an editor of scripts is called, and what it does."""

    title: str
    what: str


CHAINS: dict[str, ChainSpec] = {
    "reopened": ChainSpec(
        "Student, reopened",
        "edits the picture that its turn before made, encoded again: files that are saved and "
        "opened between turns",
    ),
    "kept_latents": ChainSpec(
        "Student, latents kept",
        "edits the latents that its turn before sampled: kontext edit --then, sessions",
    ),
    "kept_detail": ChainSpec(
        "Student, latents and detail kept",
        "is the same with the picture's own detail restored (--keep-detail)",
    ),
    "thresholded": ChainSpec(
        "Student, unchanged pixels kept",
        f"is reopened, and a turn changes no pixel around which it changes less than {UNCHANGED} "
        "of 1 (the threshold of Emu Edit)",
    ),
    "independent": ChainSpec(
        "Student, each turn alone",
        "edits the known picture before the turn: no error of an earlier turn is in it",
    ),
    "codec": ChainSpec("Codec only", "is encoded and decoded at every turn, and never edited"),
    "jpeg": ChainSpec(
        f"JPEG, quality {JPEG_QUALITY}", "is saved as JPEG at every turn, and never edited"
    ),
    "identity": ChainSpec("Identity", "is never changed"),
}
AGAIN = "reopened"  # what is compared with the ways not to wear a picture out
AGAINST_DRIFT = ("kept_latents", "kept_detail", "thresholded")


def run_chains(scripts: Scripts, models: TrainedModels) -> dict[str, Chain]:
    """What every editor of CHAINS makes at every turn of every script."""
    student = models.student

    def edited(pictures: Sequence[Picture], turn: int) -> Sequence[Picture]:
        texts = [script.turns[turn].instruction for script in scripts.scripts]
        contexts = [[picture] for picture in pictures]
        return list(models.edit(student, contexts, texts, streams(scripts, turn)))

    def coded(pictures: Sequence[Picture], turn: int) -> Sequence[Picture]:
        return list(models.round_trip(as_images(list(pictures))))

    def thresholded(pictures: Sequence[Picture], turn: int) -> Sequence[Picture]:
        made = edited(pictures, turn)
        return [unchanged_kept(*pair) for pair in zip(pictures, made, strict=True)]

    kept, detailed = kept_latents(scripts, models)
    made = {
        "reopened": chained(scripts, edited),
        "kept_latents": kept,
        "kept_detail": detailed,
        "thresholded": chained(scripts, thresholded),
        "independent": alone(scripts, edited),
        "codec": chained(scripts, coded),
        "jpeg": chained(scripts, lambda pictures, turn: [through_jpeg(one) for one in pictures]),
        "identity": chained(scripts, lambda pictures, turn: pictures),
    }
    assert list(made) == list(CHAINS)
    return made


def streams(scripts: Scripts, turn: int) -> list[str]:
    """An id for each script's turn: its noise is its own, and the same for every editor."""
    texts = (f"{script.id}:{turn}" for script in scripts.scripts)
    return [hashlib.sha256(text.encode()).hexdigest() for text in texts]


def known(scripts: Scripts, turn: int) -> list[Picture]:
    """The known pictures after a number of turns; 0: before the first one."""
    return [scripts.pictures[script.rows[turn]] for script in scripts.scripts]


def chained(scripts: Scripts, step: Step) -> Chain:
    """Each turn changes what the turn before has made."""
    pictures: Sequence[Picture] = known(scripts, 0)
    made: Chain = []
    for turn in range(TURNS):
        pictures = step(pictures, turn)
        made.append(list(pictures))
    return made


def alone(scripts: Scripts, step: Step) -> Chain:
    """Each turn changes the known picture before it."""
    return [list(step(known(scripts, turn), turn)) for turn in range(TURNS)]


def kept_latents(scripts: Scripts, models: TrainedModels) -> tuple[Chain, Chain]:
    """Each turn changes the latents that the turn before has sampled; and with detail kept."""
    student, batch = models.student, models.batch
    plain, restored = Options(any_text=True), Options(any_text=True, keep_detail=True)
    pictures = detailed = known(scripts, 0)
    latents = first_latents(student, pictures, batch)
    made: tuple[Chain, Chain] = ([], [])
    for turn in range(TURNS):
        before = latents
        edits = _edits(scripts, models, pictures, turn)
        pictures, latents = next_turn(student, edits, before, plain, batch=batch)
        edits = _edits(scripts, models, detailed, turn)
        detailed = shown(student, edits, before, latents, restored, batch)
        made[0].append(pictures)
        made[1].append(detailed)
    return made


def _edits(
    scripts: Scripts, models: TrainedModels, pictures: Sequence[Picture], turn: int
) -> list[Edit]:
    said = [script.turns[turn].instruction for script in scripts.scripts]
    parts = zip(pictures, said, streams(scripts, turn), strict=True)
    return [models.edit_of([picture], text, stream) for picture, text, stream in parts]


def unchanged_kept(before: Picture, after: Picture) -> Picture:
    """`after`, with the pixels of `before` where the blurred difference is below UNCHANGED."""
    far = channel_means(np.abs(after.astype(np.float32) - before)) / 255
    sigma = _AROUND * max(1.0, max(far.shape) / _SIDE)
    around = blurred(far[None], sigma)[0]
    return np.where((around < UNCHANGED)[..., None], before, after)


def through_jpeg(picture: Picture) -> Picture:
    """Saved as JPEG of JPEG_QUALITY and opened again."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=JPEG_QUALITY)
    return np.asarray(Image.open(file).convert("RGB"), np.uint8)
