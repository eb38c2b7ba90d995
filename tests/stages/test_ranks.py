"""The finetune stage with its training on two ranks, started by torchrun."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from schemas.recipes import FinetuneConfig, LaunchConfig, ParallelConfig
from tests.stages.encoded_run import encoded_run
from tests.stages.stage_harness import Harness


def harness_with(folder: Path, **launch: object) -> Harness:
    harness = encoded_run(folder)
    section = {
        **harness.recipe.finetune.model_dump(),
        "optimizer": "adamw",
        "parallel": ParallelConfig(precision="fp32"),
        "launch": LaunchConfig.model_validate(launch),
    }
    finetune = FinetuneConfig.model_validate(section)
    harness.recipe = harness.recipe.model_copy(update={"finetune": finetune})
    return harness


def test_two_ranks_make_what_one_process_makes(tmp_path: Path) -> None:
    alone = harness_with(tmp_path / "alone").run("finetune")
    harness = harness_with(
        tmp_path / "ranks", launcher="torchrun", ranks=2, checkpoints="store", stall_seconds=600
    )
    made = harness.run("finetune")
    assert (harness.folder / "scratch/finetune/ranks/progress.jsonl").exists()
    one, two = (a.table("history.parquet").to_pylist() for a in (alone, made))
    assert [row["step"] for row in two] == [row["step"] for row in one]
    for row, other in zip(one, two, strict=True):
        assert other["loss"] == pytest.approx(row["loss"], rel=1e-5)
    expected = load_file(alone.path("flow.safetensors"))
    found = load_file(made.path("flow.safetensors"))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-4, msg=name)
    kept = harness.objects.list("runs/finetune/digest-of-finetune/work/checkpoints/step-")
    assert {key.rpartition("/")[2] for key in kept} == {"rank-00000", "rank-00001", "manifest"}
