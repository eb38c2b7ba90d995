from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kontext.data.latents import load_pairs
from kontext.stages import distill as stage
from kontext.store.artifacts import Artifact
from kontext.train.distill import DistillMethod
from schemas.tables import CATEGORIES
from tests.stages.encoded_run import LADD, broken_at, encoded_run
from tests.stages.stage_harness import Harness


def taught(folder: Path, **changes: object) -> Harness:
    """Everything up to the teacher."""
    harness = encoded_run(folder, **changes)
    harness.run("finetune")
    return harness


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Harness, Artifact]:
    harness = taught(tmp_path_factory.mktemp("distill"))
    return harness, harness.run("distill")


def test_the_teachers_edits_are_stored_and_are_its_own(made: tuple[Harness, Artifact]) -> None:
    harness, artifact = made
    stored = load_file(artifact.path("teacher_edits.safetensors"))
    data = load_pairs(harness.inputs["encode"], "train", torch.device("cpu"))
    pairs = stored["pairs"]
    assert len(pairs) == len(set(pairs.tolist())) == LADD["teacher_edits"]
    assert stored["latents"].shape == (LADD["teacher_edits"], 16, 4, 4)
    drawn = Counter(data.categories[int(i)] for i in data.category[pairs])
    assert drawn == dict.fromkeys(CATEGORIES, 2)  # as many of each category, no text-to-image
    targets = data.latents[data.target[pairs]]
    assert (stored["latents"] - targets).abs().mean() > 0.1  # made, not copied from the data
    assert artifact.manifest.metrics["teacher_edits"] == LADD["teacher_edits"]


def test_the_student_left_the_teacher(made: tuple[Harness, Artifact]) -> None:
    harness, artifact = made
    teacher = load_file(harness.inputs["finetune"].path("flow.safetensors"))
    student = load_file(artifact.path("student.safetensors"))
    assert teacher.keys() == student.keys()
    assert any(not torch.equal(teacher[name], student[name]) for name in teacher)
    assert load_file(artifact.path("heads.safetensors"))
    config = artifact.json("config.json")
    assert config["steps"] == 4 and config["taps"] and config["shape"]["hidden_size"] == 32


def test_the_heads_trail_is_recorded(made: tuple[Harness, Artifact]) -> None:
    rows = made[1].table("history.parquet").to_pylist()
    assert [row["step"] for row in rows] == list(range(LADD["steps"]))
    for name in ("heads_loss", "accuracy", "real_logit", "fake_logit", "wrong_logit", "anchor"):
        assert all(row[name] is not None for row in rows), name
    assert all(0 <= row["accuracy"] <= 1 for row in rows)
    mean = sum(row["accuracy"] for row in rows) / len(rows)
    assert made[1].manifest.metrics["accuracy"] == pytest.approx(mean)


def test_a_killed_run_keeps_its_edits_and_ends_as_an_unbroken_one(
    tmp_path: Path, made: tuple[Harness, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = taught(tmp_path)
    broken_at(monkeypatch, DistillMethod, 3, harness, "distill")

    def again(*_: object, **__: object) -> torch.Tensor:
        raise AssertionError("the teacher's edits were made again")

    monkeypatch.setattr(stage, "sample", again)
    resumed = harness.run("distill")
    expected = {file.name: file.sha256 for file in made[1].manifest.files}
    assert {file.name: file.sha256 for file in resumed.manifest.files} == expected


def test_heads_that_learn_nothing_are_noted(tmp_path: Path) -> None:
    artifact = taught(tmp_path, steps=20, lr_heads=1e-12).run("distill")
    assert any("never told real from fake" in note for note in artifact.manifest.notes)
