from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kontext.data.latents import load_pairs
from kontext.evaluate.models import load_transformer
from kontext.stages.numerics import LEDGER
from kontext.store.artifacts import Artifact
from kontext.train.checkpoint import Checkpoints
from kontext.train.flow import FlowMethod
from schemas.tables import CATEGORIES
from tests.stages.encoded_run import FLOW, PER_CATEGORY, broken_at, encoded_run
from tests.stages.stage_harness import Harness

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Harness, Artifact]:
    harness = encoded_run(tmp_path_factory.mktemp("finetune"))
    return harness, harness.run("finetune")


def sums(artifact: Artifact) -> dict[str, str]:
    return {file.name: file.sha256 for file in artifact.manifest.files}


def test_a_killed_run_ends_as_an_unbroken_one(
    tmp_path: Path, made: tuple[Harness, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = encoded_run(tmp_path)
    broken_at(monkeypatch, FlowMethod, 5, harness, "finetune")
    checkpoints = Checkpoints(tmp_path / "scratch/finetune/checkpoints")
    assert checkpoints.finished() == [2, 4]  # those that were whole
    steps: list[int] = []
    real = FlowMethod.step
    monkeypatch.setattr(
        FlowMethod, "step", lambda self, index: (steps.append(index), real(self, index))[1]
    )
    resumed = harness.run("finetune")
    assert steps == [4, 5]
    assert sums(resumed) == sums(made[1])


def test_every_step_and_both_phases_are_in_the_history(made: tuple[Harness, Artifact]) -> None:
    history = made[1].table("history.parquet").to_pylist()
    assert [row["step"] for row in history] == list(range(FLOW["t2i_steps"] + FLOW["joint_steps"]))
    phase_one = history[: FLOW["t2i_steps"]]
    assert all(row["t2i"] is not None and row.get("edit") is None for row in phase_one)
    assert any(row.get("edit") is not None for row in history[FLOW["t2i_steps"] :])


def test_loss_is_measured_per_level_and_category_on_validation_pairs(
    made: tuple[Harness, Artifact],
) -> None:
    _, artifact = made
    rows = artifact.table("levels.parquet").to_pylist()
    assert {row["category"] for row in rows} == {*CATEGORIES, "t2i"}
    assert len({row["level"] for row in rows}) == 8 and len(rows) == 8 * 6
    assert all(row["loss"] > 0 and row["n"] == PER_CATEGORY for row in rows)
    mean = sum(row["loss"] for row in rows) / len(rows)
    assert artifact.manifest.metrics["val_loss"] == pytest.approx(mean, rel=1e-4)


def test_the_weights_are_the_average_and_load(made: tuple[Harness, Artifact]) -> None:
    harness, artifact = made
    model = load_transformer(artifact, "flow.safetensors", torch.device("cpu"))
    assert artifact.manifest.metrics["parameters"] == sum(p.numel() for p in model.parameters())
    saved = load_file(artifact.path("flow.safetensors"))
    method = FlowMethod(harness.recipe.finetune, load_pairs(harness.inputs["encode"], "train", CPU))
    method.state.ledger = artifact.json(LEDGER)
    assert Checkpoints(harness.folder / "scratch/finetune/checkpoints").restore(method.state)
    last = method.model.state_dict()
    assert saved.keys() == last.keys()
    assert any(not torch.equal(saved[name], last[name]) for name in saved)
    assert artifact.path("samples.png").read_bytes().startswith(b"\x89PNG")
