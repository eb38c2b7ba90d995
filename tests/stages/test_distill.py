import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kontext.data.encoded.latents import load_pairs
from kontext.edit import teacher_edits
from kontext.edit.pairs import EditSampler
from kontext.engine.fingerprint import code_of
from kontext.errors import NumericsError, RecipeError, WiringError
from kontext.models.flux.transformer import FluxTransformer
from kontext.stages import STAGES
from kontext.store.artifacts.artifact_store import Artifact
from kontext.train.ladd.gates import settings_digest
from kontext.train.methods.dmd2 import Dmd2Method
from kontext.train.methods.ladd import LaddMethod
from schemas.sections.training import DistillConfig
from schemas.tables import CATEGORIES
from tests.stages.encoded_run import LADD, broken_at, edits_of, taught
from tests.stages.stage_harness import Harness
from tests.train.broken_ladd import VelocityAsEstimate


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Harness, Artifact]:
    harness = taught(tmp_path_factory.mktemp("distill"))
    return harness, harness.run("distill")


def test_the_teachers_edits_are_stored_and_are_its_own(made: tuple[Harness, Artifact]) -> None:
    harness, artifact = made
    stored = edits_of(artifact)
    data = load_pairs(harness.inputs["encode"], "train", torch.device("cpu"))
    pairs = stored["pairs"]
    assert len(pairs) == len(set(pairs.tolist())) == LADD["teacher_edits"]
    targets = torch.cat([data.latents[data.target[pair].view(1)].flatten() for pair in pairs])
    assert stored["latents"].shape == targets.shape  # each of its own size
    drawn = Counter(data.categories[int(i)] for i in data.category[pairs])
    assert drawn == dict.fromkeys(CATEGORIES, 2)  # as many of each category, no text-to-image
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
    broken_at(monkeypatch, LaddMethod, 3, harness, "distill")

    monkeypatch.setattr(EditSampler, "edits", never)
    resumed = harness.run("distill")
    expected = {file.name: file.sha256 for file in made[1].manifest.files}
    assert {file.name: file.sha256 for file in resumed.manifest.files} == expected


def never(*_: object, **__: object) -> torch.Tensor:
    raise AssertionError("the teacher's edits were made again")


def test_edits_are_made_in_shards_of_which_only_the_missing_are_made_again(
    tmp_path: Path, made: tuple[Harness, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_edits, "SHARD", 4)
    harness, real, sizes = taught(tmp_path), EditSampler.edits, list[int]()

    def dying(self: EditSampler, model: FluxTransformer, pairs: torch.Tensor) -> torch.Tensor:
        if len(sizes) == 2:
            raise KeyboardInterrupt
        sizes.append(len(pairs))
        return real(self, model, pairs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(EditSampler, "edits", dying)
        harness.run("distill")
    shards = sorted((tmp_path / "home" / "cache" / "teacher-edits").rglob("*.safetensors"))
    assert [path.name for path in shards] == [f"teacher-edits-0000{n}.safetensors" for n in (0, 1)]
    before = {path: path.stat().st_mtime_ns for path in shards}
    sizes.clear()

    def counting(self: EditSampler, model: FluxTransformer, pairs: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pairs))
        return real(self, model, pairs)

    monkeypatch.setattr(EditSampler, "edits", counting)
    artifact = harness.run("distill")
    assert sizes == [3, 2] and {path: path.stat().st_mtime_ns for path in shards} == before
    told = artifact.json("teacher_edits.json")
    assert (told["shards"], told["edits"], told["steps"]) == (4, 10, LADD["teacher_steps"])
    assert told["version"] == shards[0].parent.name
    stored = edits_of(artifact)
    expected = edits_of(made[1])
    assert torch.equal(stored["pairs"], expected["pairs"])
    assert torch.allclose(stored["latents"], expected["latents"], atol=0.02)


def test_other_ladd_settings_take_the_same_edits_and_another_guidance_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = taught(tmp_path)
    harness.run("distill")
    versions = tmp_path / "home" / "cache" / "teacher-edits"
    assert len(list(versions.iterdir())) == 1

    def again(**changes: object) -> None:
        shutil.rmtree(tmp_path / "scratch" / "distill")  # another recipe has another
        shutil.rmtree(tmp_path / "store" / "runs" / "distill", ignore_errors=True)
        config = harness.recipe.distill.model_copy(update={"steps": 2, **changes})
        harness.recipe = harness.recipe.model_copy(update={"distill": config})
        harness.run("distill")

    with monkeypatch.context() as patch:
        patch.setattr(EditSampler, "edits", never)
        again(lr_heads=1e-3)
    assert len(list(versions.iterdir())) == 1
    again(guidance=3.0)
    assert len(list(versions.iterdir())) == 2


def test_what_the_gates_saw_is_stored_and_their_settings_are_in_the_ledger(
    made: tuple[Harness, Artifact],
) -> None:
    harness, artifact = made
    rows = artifact.json("gates.json")
    assert {row["gate"] for row in rows} == {
        *("sampler", "edits", "input", "estimate", "gradient", "batch", "turns", "rates")
    }
    assert all(row["passed"] is True and row["seen"] for row in rows)
    assert harness.report.tables["distill-gates"] == rows
    line = artifact.json("ledger.json")["gates: passed with settings"]
    assert line == settings_digest(harness.recipe.distill)


@pytest.mark.parametrize(
    ("name", "changes", "gate"),
    [
        ("denoised", {}, "estimate"),
        ("", {"lr_heads": 1e-12}, "rates"),
    ],
)
def test_a_fault_stops_the_stage_before_training_and_is_shown(
    tmp_path: Path,
    name: str,
    changes: dict[str, object],
    gate: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    harness = taught(tmp_path, **changes)
    if name:
        monkeypatch.setattr(LaddMethod, name, getattr(VelocityAsEstimate, name))
    with pytest.raises(WiringError) as raised:
        harness.run("distill")
    assert raised.value.gate == gate
    failed = [row for row in harness.report.tables["distill-gates"] if row["passed"] is False]
    assert [row["gate"] for row in failed] == [gate]
    assert not (tmp_path / "scratch" / "distill" / "checkpoint.pt").exists()


def test_a_checkpoint_of_other_settings_than_passed_the_gates_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = taught(tmp_path)
    broken_at(monkeypatch, LaddMethod, 3, harness, "distill")
    drifted = harness.recipe.distill.model_copy(update={"lr_student": 2e-3})
    harness.recipe = harness.recipe.model_copy(update={"distill": drifted})
    with pytest.raises(NumericsError, match="gates: passed with settings"):
        harness.run("distill")


DMD2: dict[str, Any] = {"method": "dmd2", "dmd_fake_updates": 2, "lr_fake": 1e-3}


def test_the_recipe_chooses_the_method_and_a_killed_run_of_it_ends_as_an_unbroken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = taught(tmp_path / "whole", **DMD2)
    artifact = harness.run("distill")
    rows = artifact.table("history.parquet").to_pylist()
    assert all(row["fake_loss"] > 0 and row["matching"] >= 0 for row in rows)
    teacher = load_file(harness.inputs["finetune"].path("flow.safetensors"))
    student = load_file(artifact.path("student.safetensors"))
    assert teacher.keys() == student.keys()
    assert any(not torch.equal(teacher[name], student[name]) for name in teacher)
    assert load_file(artifact.path("heads.safetensors"))
    assert artifact.json("config.json")["steps"] == 4
    assert {"accuracy", "fake_loss", "student_loss"} <= set(artifact.manifest.metrics)
    assert "6 DMD2 steps" in harness.report.texts["distill-summary"]
    broken = taught(tmp_path / "broken", **DMD2)
    broken_at(monkeypatch, Dmd2Method, 3, broken, "distill")
    resumed = broken.run("distill")
    expected = {file.name: file.sha256 for file in artifact.manifest.files}
    assert {file.name: file.sha256 for file in resumed.manifest.files} == expected


def test_the_distance_alone_makes_a_student_without_heads(tmp_path: Path) -> None:
    harness = taught(tmp_path, adversarial_weight=0.0)
    artifact = harness.run("distill")
    names = {file.name for file in artifact.manifest.files}
    assert "student.safetensors" in names and "heads.safetensors" not in names
    assert {"student_loss", "student_grad_norm"} <= set(artifact.manifest.metrics)
    assert "accuracy" not in artifact.manifest.metrics
    assert "heads" not in harness.report.texts["distill-summary"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"method": "guidance"}, "distill.method=guidance: there is dmd2 and ladd"),
        ({"adversarial_weight": 0.0, "anchor_weight": 0.0}, "the student learns nothing"),
    ],
)
def test_a_student_that_cannot_be_made_is_a_clear_error(
    tmp_path: Path, changes: dict[str, object], told: str
) -> None:
    harness = taught(tmp_path)
    config = harness.recipe.distill.model_copy(update=changes)
    harness.recipe = harness.recipe.model_copy(update={"distill": config})
    with pytest.raises(RecipeError, match=told):
        harness.run("distill")


def test_a_recipe_names_methods_that_make_students_and_no_other() -> None:
    assert DistillConfig().method == "ladd" and DistillConfig(method="dmd2").method == "dmd2"
    with pytest.raises(ValueError, match="'dmd2' or 'ladd'"):
        DistillConfig(method="flow")
    assert DistillConfig.model_json_schema()["properties"]["method"]["enum"] == ["dmd2", "ladd"]


def test_the_code_of_the_chosen_method_counts_and_others_do_not() -> None:
    files = {f"kontext.train.methods.{name}" for name in ("ladd", "dmd2", "flow", "guidance")}
    for method in ("ladd", "dmd2"):
        code = code_of(STAGES["distill"], DistillConfig(method=method))
        assert files & set(code) == {f"kontext.train.methods.{method}"}


def test_what_passed_the_gates_tells_methods_and_their_settings_apart() -> None:
    configs = (
        DistillConfig(),
        DistillConfig(adversarial_weight=0.5),
        DistillConfig(anchor_weight=0.5),
        DistillConfig(method="dmd2"),
        DistillConfig(method="dmd2", gan_weight=1.0),
    )
    assert len({settings_digest(config) for config in configs}) == len(configs)
