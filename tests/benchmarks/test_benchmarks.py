"""The benchmarks run and tell the truth about what they compare; no timing is asserted."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import (
    context_cache,
    full_size,
    hashes,
    loader,
    safety,
    sweep,
    tiling,
    timing,
    train_stack,
    train_step,
    transformer,
)
from kontext.parallel.attention import active_kernel
from kontext.parallel.flops import Tokens
from schemas.sections.models import TransformerShape

SHAPE = TransformerShape(
    in_channels=8,
    vec_in_dim=6,
    context_in_dim=10,
    hidden_size=16,
    num_heads=1,
    depth=1,
    depth_single_blocks=2,
    axes_dim=(4, 6, 6),
    guidance_embed=False,
)
CPU = torch.device("cpu")


def test_ratios_are_of_the_same_round() -> None:
    assert timing.ratio({"a": [1, 2, 4], "b": [3, 4, 4]}, "a", "b") == 2
    found = timing.take_turns({"a": lambda: None, "b": lambda: None}, CPU, repeats=3, warmup=1)
    assert {name: len(values) for name, values in found.items()} == {"a": 3, "b": 3}


def test_results_are_written_with_a_device_name_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "RESULTS", tmp_path)
    monkeypatch.setattr(timing, "device_name", lambda _: "")
    assert timing.save("x", CPU, {"a": 1}) is None
    monkeypatch.setattr(timing, "device_name", lambda _: "some CPU")
    path = timing.save("x", CPU, {"a": 1})
    assert path == tmp_path / "x-cpu.json"
    assert json.loads(path.read_text())["device"] == "some CPU"


def test_the_gate_is_timed_beside_its_classifiers(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("nudenet")
    safety.main(["--images", "1", "--megapixels", ".01", "--repeats", "1", "--no-stage"])
    said = capsys.readouterr().out
    assert said.count("the whole gate is") == 3
    assert all(f"{part} " in said for part in ("decode", "hashes", "open-nsfw", "nudenet"))


def test_hash_searches_find_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    hashes.main(["--entries", "50", "--images", "2", "--pairs", "40", "--repeats", "1"])
    assert capsys.readouterr().out.count("with the same result") == 2


def test_a_sweep_cuts_the_shards_that_are_hit(capsys: pytest.CaptureFixture[str]) -> None:
    sweep.main(["--pictures", "400", "--entries", "40", "--shards", "8", "--hit", "2"])
    found = json.loads(capsys.readouterr().out)
    assert (found["taken"], found["shards_cut"], found["shards_same"]) == (2, 2, 6)


def test_both_models_are_the_same_function(capsys: pytest.CaptureFixture[str]) -> None:
    transformer.main(["--batch", "2", "--side", "2", "--text", "3", "--repeats", "1"], SHAPE)
    out = capsys.readouterr().out
    for kind, limit in (("float32", 2e-5), ("bfloat16", 0.1)):
        assert float(out.split(f"largest difference in {kind}: ")[1].split()[0]) < limit
    for way in transformer.WAYS:  # what flatters one of them is not in the others
        rows = out.split(f"{way}: our attention is ")[1].split("largest difference")[0]
        assert rows.count("x diffusers") == 4
        assert rows.count("(at least 1)") == 2


def test_cached_context_saves_what_the_count_says(capsys: pytest.CaptureFixture[str]) -> None:
    context_cache.main(["--steps", "3", "--side", "2", "--text", "3", "--repeats", "1"], SHAPE)
    out = capsys.readouterr().out
    expected = context_cache.saving(SHAPE, Tokens(3, 4, 4))
    assert f"this run: FLOPs saved per step {expected:.1%}" in out
    assert "FLUX.1, 1024 x 1024: FLOPs saved per step 4" in out
    assert "(at least 35 %): reached" in out
    assert float(out.split("largest difference: ")[1]) < 1e-5


def test_full_size_takes_the_same_path_with_a_tiny_model(
    capsys: pytest.CaptureFixture[str],
) -> None:
    args = full_size.parse(
        [
            "--kernels",
            "math,fa3",
            "--side",
            "2",
            "--text",
            "3",
            "--repeats",
            "2",
            "--compile",
            "--backend",
            "eager",
        ]
    )
    shape = SHAPE.model_copy(update={"guidance_embed": True})
    rows, refused = full_size.compare(shape, CPU, args)
    assert [(row.kernel, row.mode) for row in rows] == [("math", "joint"), ("math", "cached")]
    assert all(row.step > 0 and set(row.edits) == {28, 4} for row in rows)
    assert "needs a CUDA device" in refused["fa3"]
    assert "28 steps" in full_size.show(rows[0])
    full_size.tell_goals(rows)
    said = capsys.readouterr().out
    assert "28 steps, math: " in said and "(at most 10 s): reached" in said
    assert "(at most 1.6 s): reached" in said
    assert active_kernel("cpu").startswith("math (bf16")  # the default is back


def test_cached_edits_are_uncached_edits() -> None:
    edits = []
    for cached in (True, False):
        of = SHAPE.model_copy(update={"cached_context": True})
        edit = full_size.Edit(of, CPU, side=2, text=3, dtype=torch.float32)
        if not cached:
            edit.cache = lambda: None  # type: ignore[method-assign]
        edits.append(edit.run(4))
    assert torch.allclose(*edits, atol=1e-5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_without_a_large_card_full_size_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert full_size.main([]) == 1
    assert "at least 80 GB" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory needs Linux")
def test_our_tiles_are_the_whole_picture_and_blended_tiles_are_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiling.main(["--side", "64", "--tile", "32", "--width", "8"])
    lines = [line for line in capsys.readouterr().out.splitlines() if "max" in line]
    largest = {
        name: float(line.split("max")[1].split()[0])
        for line in lines
        for name in ("one piece", "our tiles", "diffusers")
        if name in line
    }
    assert largest["one piece"] == 0
    assert largest["our tiles"] <= 1
    assert largest["diffusers"] > 1


def test_loaders_give_the_same_samples_and_ours_resumes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    loader.main(["--samples", "40", "--side", "32", "--batch", "8", "--repeats", "1"])
    out = capsys.readouterr().out
    assert out.count("resumed mid-epoch: the same batches") == 2
    assert out.count("webdataset, in process") >= 2 and "goal 1.2 x" in out


def test_our_step_and_the_bare_loop_have_the_same_losses(
    capsys: pytest.CaptureFixture[str],
) -> None:
    train_step.main(["--batch", "4", "--side", "2", "--text", "3", "--repeats", "1"], SHAPE)
    out = capsys.readouterr().out
    assert "kontext eager is" in out and "the first losses agree" in out


def test_other_losses_are_not_called_the_same_step() -> None:
    steps = {"diffusers eager": lambda: 1.0, "kontext eager": lambda: 1.1}
    with pytest.raises(AssertionError, match=r"kontext eager: 1\.1, not 1\.0"):
        train_step.check_losses(steps)  # type: ignore[arg-type]


def test_the_stack_of_blocks_takes_the_same_path_with_a_tiny_model() -> None:
    line = "--kernels math,cudnn --recompute none,full --side 2 --text 3 --batch 2 --repeats 1"
    args = train_stack.parse([*line.split(), "--device", "cpu"])
    rows, refused = train_stack.compare(SHAPE, CPU, args)
    assert [(row.kernel, row.recompute) for row in rows] == [("math", "none"), ("math", "full")]
    assert set(refused) == {"cudnn, none", "cudnn, full"}
    assert "MFU unknown" in train_stack.show(rows[0])
    assert train_stack.main(["--device", "cpu"]) == 1
