"""Guidance distillation inside finetune, and LADD from the teacher that it gives."""

import pytest
import torch
from safetensors.torch import load_file

from kontext.store.artifacts.artifact_store import Artifact
from tests.stages.encoded_run import edits_of, encoded_run
from tests.stages.stage_harness import Harness


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Harness, Artifact]:
    harness = encoded_run(tmp_path_factory.mktemp("guidance"), guidance=3.0)
    settings = {"steps": 4, "batch": 8, "low": 1.0, "high": 4.0}
    flow = harness.recipe.finetune.model_validate(
        {**harness.recipe.finetune.model_dump(), "guidance_distill": settings}
    )
    harness.recipe = harness.recipe.model_copy(update={"finetune": flow})
    return harness, harness.run("finetune")


def test_the_flow_comes_out_with_an_embedding(made: tuple[Harness, Artifact]) -> None:
    artifact = made[1]
    weights = load_file(artifact.path("flow.safetensors"))
    assert "guidance_in.in_layer.weight" in weights
    assert artifact.json("config.json")["shape"]["guidance_embed"] is True
    ledger = artifact.json("ledger.json")
    assert ledger["guidance: mode"] == "embedded" and ledger["guidance: distilled"] == "1 to 4"
    rows = artifact.table("guidance.parquet").to_pylist()
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert float(artifact.manifest.metrics["guidance_unlearned"]) > 0


def test_it_is_told_the_guidance_of_its_edits_when_it_teaches(
    made: tuple[Harness, Artifact],
) -> None:
    harness, _ = made
    artifact = harness.run("distill")  # every gate passes on a model with an embedding
    assert all(row["passed"] for row in artifact.json("gates.json"))
    student = load_file(artifact.path("student.safetensors"))
    assert "guidance_in.in_layer.weight" in student
    edits = edits_of(artifact)["latents"]
    assert torch.isfinite(edits).all()
