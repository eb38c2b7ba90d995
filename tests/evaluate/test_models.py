"""What is scored is the editor that users run; tests/stages/test_publish.py compares bytes."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from kontext.edit import edit_model
from kontext.edit.canvas import Frame
from kontext.edit.request import Options
from kontext.edit.turns import Turns
from kontext.evaluate.drift import chains
from kontext.evaluate.drift.scripts import make_scripts
from kontext.evaluate.models import TrainedModels
from tests.evaluate.drift.world import made_pairs
from tests.stages.finished_run import SIDE, finished_run
from tests.stages.stage_harness import Harness

FIRST = "0" * 64  # an id whose noise stream is that of `kontext edit`


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Harness:
    return finished_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def models(harness: Harness) -> TrainedModels:
    ctx = harness.context("evaluate", harness.store.writer("evaluate", "models"))
    found = TrainedModels.load(ctx, harness.recipe.evaluate)
    torch.manual_seed(0)
    for one in (found.student, found.teacher):  # what starts at zero hides what an edit looks at
        for weight in one.model.transformer.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.2)
    return found


def pictures(count: int) -> np.ndarray:
    drawn = np.random.default_rng(0).integers(0, 255, (count, 8, 8, 3), dtype=np.uint8)
    return drawn.repeat(SIDE // 8, 1).repeat(SIDE // 8, 2)


def alone(count: int) -> list[list[np.ndarray]]:
    """Each picture as the only context of an edit."""
    return [[picture] for picture in pictures(count)]


def test_a_batch_gives_each_item_the_edit_that_it_has_alone(models: TrainedModels) -> None:
    images, ids = alone(3), ["a" * 64, "b" * 64, "c" * 64]
    texts = ["make it red", "a longer instruction for another picture", "make it red"]
    student, teacher = (partial(models.edit, e) for e in (models.student, models.teacher))
    short = partial(teacher, steps=models.few_steps)
    for edit in (student, teacher, short):
        together = edit(images, texts, ids)
        for row in range(3):
            one = slice(row, row + 1)
            single = edit(images[one], texts[one], ids[one])
            assert np.abs(together[one].astype(int) - single).max() <= 1
    assert not np.array_equal(teacher(images, texts, ids), together)


def test_a_fault_in_the_users_path_shows_in_what_is_scored(
    models: TrainedModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: Any = (models.student, alone(1), ["make it red"], [FIRST])
    right = models.edit(*arguments)
    real = edit_model.fit

    def fit(image: np.ndarray, *more: Any) -> tuple[np.ndarray, Frame]:
        canvas, frame = real(image, *more)
        return canvas[:, ::-1].copy(), frame

    monkeypatch.setattr(edit_model, "fit", fit)
    assert not np.array_equal(models.edit(*arguments), right)


def test_references_go_through_the_same_autoencoder(models: TrainedModels) -> None:
    images = pictures(2)
    codec = models.student.codec
    assert np.array_equal(models.round_trip(images), codec.decode(codec.encode(images)))
    drawn = models.edit(
        models.teacher, [[], []], ["a cat", "a dog"], ["a" * 64, "b" * 64], (SIDE, SIDE)
    )
    assert drawn.shape == images.shape


def test_long_instructions_are_cut_as_training_cuts_them(models: TrainedModels) -> None:
    words = " ".join(["red"] * 40)
    edited = models.edit(models.student, alone(1), [words], [FIRST])
    assert np.array_equal(edited, models.edit(models.student, alone(1), [f"{words} blue"], [FIRST]))


def test_batches_are_counted(models: TrainedModels, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr("kontext.evaluate.models.BATCH", 2)
    monkeypatch.setattr(models, "progress", seen.append)
    models.edit(models.student, alone(3), ["x"] * 3, ["a" * 64] * 3)
    assert seen == [2, 1]


def test_scripts_are_edited_as_sessions_and_saved_pictures_are(
    models: TrainedModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pictures(2)
    scripts = make_scripts(*made_pairs([(0, 0, 1), (0, 1, 0)], [first, second]), 1, 0, 0.06)
    monkeypatch.setattr(chains, "streams", lambda scripts, turn: [FIRST])
    made = chains.run_chains(scripts, models)
    start = chains.known(scripts, 0)[0]
    plain, detailed, again = Turns(models.student, start), Turns(models.student, start), start
    for turn, asked in enumerate(scripts.scripts[0].turns):
        plain.turn(asked.instruction, seed=models.seed)
        detailed.turn(asked.instruction, Options(keep_detail=True), seed=models.seed)
        again = models.student.edit([again], asked.instruction, seed=models.seed)
        assert np.array_equal(made["kept_latents"][turn][0], plain.image)
        assert np.array_equal(made["kept_detail"][turn][0], detailed.image)
        assert np.array_equal(made["reopened"][turn][0], again)
        assert np.array_equal(made["identity"][turn][0], start)
        before = chains.known(scripts, turn)[0]
        single = models.student.edit([before], asked.instruction, seed=models.seed)
        assert np.array_equal(made["independent"][turn][0], single)
    assert not np.array_equal(plain.image, again)
    assert np.array_equal(made["codec"][1][0], models.round_trip(np.stack(made["codec"][0]))[0])
