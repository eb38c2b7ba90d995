"""The steps judged in pictures inside finetune."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kontext.store.artifacts.artifact_store import Artifact
from kontext.train.methods.pictures import PictureMethod
from tests.stages.encoded_run import broken_at, encoded_run
from tests.stages.stage_harness import Harness


def harness(folder: Path, steps: int) -> Harness:
    made = encoded_run(folder)
    flow = made.recipe.finetune.model_validate(
        {**made.recipe.finetune.model_dump(), "pictures": {"steps": steps, "batch": 4}}
    )
    made.recipe = made.recipe.model_copy(update={"finetune": flow})
    return made


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return harness(tmp_path_factory.mktemp("pictures"), steps=4).run("finetune")


def test_they_change_the_weights_and_are_in_the_artifact(whole: Artifact, tmp_path: Path) -> None:
    artifact = whole
    rows = artifact.table("pictures.parquet").to_pylist()
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert float(artifact.manifest.metrics["picture_embedding_last"]) > 0
    plain = harness(tmp_path, steps=0).run("finetune")
    assert "pictures.parquet" not in plain.names()
    one, other = (load_file(a.path("flow.safetensors")) for a in (artifact, plain))
    assert one.keys() == other.keys()
    assert not torch.equal(one["img_in.weight"], other["img_in.weight"])


def test_killed_among_them_the_stage_goes_on_exactly(
    whole: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = harness(tmp_path, steps=4)
    broken_at(monkeypatch, PictureMethod, 3, broken, "finetune")
    found = broken.run("finetune")
    for name in ("flow.safetensors", "history.parquet", "pictures.parquet"):
        assert found.path(name).read_bytes() == whole.path(name).read_bytes(), name
