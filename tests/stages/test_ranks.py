"""The training stages on two ranks, started by torchrun, or forked where it was shown once."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kontext.edit import teacher_edits
from kontext.models.files.lora_files import save_lora
from kontext.models.files.recognise_autoencoder import SHAPE_KEY
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.lora import LoraConfig, adapters, apply_lora, lora_of
from kontext.parallel.ranks import launch as launching
from kontext.stages import STAGES
from kontext.store.artifacts.artifact_store import Artifact, work_prefix
from schemas.sections.training import (
    FinetuneConfig,
    GuidanceConfig,
    LaunchConfig,
    ParallelConfig,
    PictureConfig,
)
from schemas.sections.weights import WeightsConfig
from tests.parallel.rank_processes import forked_ranks
from tests.stages import finished_run
from tests.stages.encoded_run import SHAPE, edits_of, encoded_run
from tests.stages.stage_harness import Harness
from tests.stages.test_train_autoencoder import dataset


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
    drawing = harness.recipe.finetune.model_copy(update={"validate_every": 6})
    harness.recipe = harness.recipe.model_copy(update={"finetune": drawing})
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
    board = (harness.home / "tensorboard").glob("flow-*/events*")
    assert b"flow/samples" in b"".join(path.read_bytes() for path in board)  # what ranks drew
    assert not list((harness.folder / "scratch/finetune/drawn").iterdir())
    kept = harness.objects.list(
        work_prefix("finetune", "digest-of-finetune") + "/checkpoints/step-"
    )
    assert {key.rpartition("/")[2] for key in kept} == {"rank-00000", "rank-00001", "manifest"}


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks are processes that start at once."""
    monkeypatch.setattr(launching, "_torchrun", forked_ranks)


def test_two_ranks_train_adapters_then_in_pixels_and_then_distil_guidance(
    forked: None, tmp_path: Path
) -> None:
    """Each training reads what the one before has made, the first one given adapters; the stage's
    process holds nothing.
    """
    torch.manual_seed(7)
    model = FluxTransformer(SHAPE)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    said = {SHAPE_KEY: SHAPE.model_dump_json()}
    save_file(model.state_dict(), tmp_path / "given.safetensors", said)
    adapted = apply_lora(deepcopy(model), LoraConfig(rank=2))
    for layer in adapters(adapted).values():
        torch.nn.init.normal_(layer.lora_up, std=0.05)
    save_lora(lora_of(adapted), tmp_path / "lora.safetensors", model)
    given = WeightsConfig(
        transformer=str(tmp_path / "given.safetensors"),
        adapter=str(tmp_path / "lora.safetensors"),
    )
    changes = {
        "pictures": PictureConfig(steps=2, batch=8, warmup=1, lr=1e-4),
        "guidance_distill": GuidanceConfig(steps=2, batch=8, warmup=1),
    }
    made = []
    for launch in ({}, {"launcher": "torchrun", "ranks": 2}):
        harness = harness_with(tmp_path / f"with-{len(launch)}", **launch)
        section = harness.recipe.finetune.model_copy(update=changes)
        harness.recipe = harness.recipe.model_copy(update={"finetune": section, "weights": given})
        made.append(harness.run("finetune"))
    # decoded pictures are compared in bf16 where the machine is fast at it
    for name, near in (("history", 1e-4), ("pictures", 1e-2), ("guidance", 1e-2)):
        one, two = (artifact.table(f"{name}.parquet")["loss"].to_pylist() for artifact in made)
        assert two == pytest.approx(one, rel=near), name
    for name in ("flow.safetensors", "lora.safetensors"):
        alone, together = (load_file(artifact.path(name)) for artifact in made)
        for key, tensor in alone.items():
            torch.testing.assert_close(together[key], tensor, rtol=0, atol=2e-3, msg=key)


# the autoencoder computes in bf16 where the machine is fast at it; tests/parallel/test_methods.py
# compares both methods in float32, and knows which losses of adversaries may drift
NEAR = {
    "distill": {"rel": 1e-3, "abs": 5e-3},
    "train-autoencoder": {"rel": 5e-2, "abs": 1e-2},
}


def test_two_ranks_train_the_autoencoder(forked: None, tmp_path: Path) -> None:
    alone, together = both(tmp_path, "train-autoencoder", shards)
    same_losses(alone, together, "train-autoencoder")


def test_two_ranks_distil_after_making_the_teachers_edits_between_them(
    forked: None, tmp_path: Path
) -> None:
    alone, together = both(tmp_path, "distill", taught)
    same_losses(alone, together, "distill")
    one, two = edits_of(alone), edits_of(together)
    assert torch.equal(one["pairs"], two["pairs"])
    torch.testing.assert_close(one["latents"], two["latents"], atol=1e-3, rtol=1e-3)


def both(folder: Path, stage: str, make: Callable[[Path], Harness]) -> tuple[Artifact, Artifact]:
    """What the stage makes in its own process, and on two ranks."""
    (folder / "before").mkdir()
    made, before = [], make(folder / "before")
    for launcher in ("in-process", "torchrun"):
        harness, name = before.copied(folder / launcher), STAGES[stage].section
        launch = LaunchConfig(launcher=launcher, ranks=2 if launcher == "torchrun" else 1)
        section = getattr(harness.recipe, name).model_copy(update={"launch": launch})
        harness.recipe = harness.recipe.model_copy(update={name: section})
        with pytest.MonkeyPatch.context() as patch:
            if launcher == "torchrun":
                patch.setattr(teacher_edits, "_made", _not_here)
            made.append(harness.run(stage))
        for word in ("ranks", "edit-ranks")[: 2 if stage == "distill" else 1]:
            told = harness.folder / f"scratch/{stage}/{word}/progress.jsonl"
            assert told.exists() == (launcher == "torchrun")
    return made[0], made[1]


def same_losses(alone: Artifact, together: Artifact, stage: str) -> None:
    histories = [made.table("history.parquet").to_pylist() for made in (alone, together)]
    for row, other in zip(*histories, strict=True):
        for name, value in row.items():
            if value is not None and not name.endswith("norm"):
                # it counts 96 logits: up to two that lie next to zero may change sides
                near = {"abs": 2.1 / 96} if name == "accuracy" else NEAR[stage]
                assert other[name] == pytest.approx(value, **near), name


def taught(folder: Path) -> Harness:
    fp32 = ParallelConfig(precision="fp32")
    harness = encoded_run(folder, parallel=fp32)
    section = harness.recipe.finetune.model_copy(update={"parallel": fp32})
    harness.recipe = harness.recipe.model_copy(update={"finetune": section})
    harness.run("finetune")
    return harness


def shards(folder: Path) -> Harness:
    harness = dataset(folder, finished_run.SPLIT_NAMES)
    section = harness.recipe.autoencoder.model_copy(update={"optimizer": "adamw", "lr": 1e-3})
    harness.recipe = harness.recipe.model_copy(update={"autoencoder": section})
    return harness


def _not_here(*_: object) -> None:
    raise AssertionError("made in the stage's own process")
