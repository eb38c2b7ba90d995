"""A packed run: in slices, killed between and inside them, and what it needs to import."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from kontext.data.packed import read_pack, write_pack
from kontext.errors import RecipeError
from kontext.evaluate.metrics import success
from kontext.evaluate.metrics.base import Scoring
from kontext.evaluate.pixels import change_mask
from kontext.models.features import load_features
from kontext.packed.run import AGAIN, PHASES, PackedRun, main
from kontext.packed.scores import MAX_MAE_RATIO, _pooled, png, succeeded
from tests.data.pictures import scene
from tests.packed.packed_toy import toy_pack

ROOT = Path(__file__).parents[2]
WEIGHTS = ("codec", "latents", "flow", "student")


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pack") / "toy.pack"
    write_pack(toy_pack(), path)
    return path


NEEDED = """
import sys
blocked = "pyarrow PIL prefect duckdb webdataset boto3 tokenizers torchvision".split()
class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ImportError(name + " is not on that machine")
sys.meta_path.insert(0, Wall())
from kontext.packed.run import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def whole(pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unbroken run, where only torch, numpy, safetensors and pydantic can be imported."""
    folder = tmp_path_factory.mktemp("whole")
    command = [sys.executable, "-c", NEEDED, str(pack), str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def same(one: Path, other: Path) -> None:
    for name in WEIGHTS:
        found, wanted = (load_file(f / f"{name}.safetensors") for f in (one, other))
        assert all(torch.equal(found[key], wanted[key]) for key in wanted), name
    assert (one / "samples.png").read_bytes() == (other / "samples.png").read_bytes()


def test_a_run_without_other_packages_ends_with_weights_scores_and_pictures(
    whole: Path, pack: Path
) -> None:
    scores = json.loads((whole / "scores.json").read_text())
    assert scores["device"] == "CPU" and scores["pack"] == read_pack(pack).digest
    for name in ("flow", "student", "ceiling"):
        assert set(scores["success"][name]) <= {"local", "global", "text", "style", "character"}
        assert all(0 <= value <= 1 for value in scores["success"][name].values())
    sheet = Image.open(io.BytesIO((whole / "samples.png").read_bytes()))
    assert sheet.width == 4 * 32 and sheet.height % 32 == 0
    assert all((whole / f"{phase}.done").exists() for phase in PHASES)


SLICES = """
import sys, time
from pathlib import Path
from kontext.data.packed import read_pack
from kontext.packed.run import PackedRun
from kontext.parallel.rank import Stopped
stops = 0
while True:
    try:
        PackedRun(read_pack(Path(sys.argv[1])), Path(sys.argv[2]), deadline=time.monotonic()).run()
        break
    except Stopped:
        stops += 1
print(stops)
"""


def test_slices_that_are_over_at_once_end_where_an_unbroken_run_does(
    whole: Path, pack: Path, tmp_path: Path
) -> None:
    # a process of its own, as `whole` had: bytes are not promised beside other tests' leftovers
    command = [sys.executable, "-c", SLICES, str(pack), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 15, "every slice should have done one step"
    same(tmp_path, whole)


def test_killed_between_and_inside_its_slices_it_goes_on_exactly(
    whole: Path, pack: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "kontext.packed", str(pack), str(tmp_path)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    first = subprocess.run([*command, "--seconds", "0"], cwd=ROOT, check=False, **quiet)  # type: ignore[call-overload]
    assert first.returncode == AGAIN
    second = subprocess.Popen(command, cwd=ROOT, **quiet)  # type: ignore[call-overload]
    while not list(tmp_path.glob("checkpoints-flow/step-*/manifest")):
        assert second.poll() is None, "the run was over before it could be killed"
        time.sleep(0.01)
    os.kill(second.pid, signal.SIGKILL)
    second.wait()
    assert not (tmp_path / "scores.json").exists()
    last = subprocess.run(command, cwd=ROOT, check=False, **quiet)  # type: ignore[call-overload]
    assert last.returncode == 0
    same(tmp_path, whole)


def test_a_folder_of_another_pack_is_refused(whole: Path, tmp_path: Path) -> None:
    other = toy_pack()
    other.images[0, 0, 0] ^= 1
    write_pack(other, tmp_path / "other.pack")
    with pytest.raises(RecipeError, match="another pack"):
        PackedRun(read_pack(tmp_path / "other.pack"), whole)
    assert main([str(tmp_path / "other.pack"), str(whole)]) == 1


def test_success_is_the_evaluation_s_own() -> None:
    assert MAX_MAE_RATIO == success.MAX_MAE_RATIO
    context, target = (np.stack([scene(n + k) for n in range(6)]) for k in (0, 10))
    mixed = [
        np.round(c + (t - c.astype(float)) * w)
        for c, t, w in zip(context, target, WEIGHT, strict=True)
    ]
    output = np.stack(mixed).astype(np.uint8)
    mask, net = change_mask(context, target, 0.06), load_features()
    found = succeeded(output, context, target, mask, net)

    class Bench:
        pass

    bench = Bench()
    bench.context, bench.target, bench.mask = context, target, mask  # type: ignore[attr-defined]
    scoring = Scoring.__new__(Scoring)
    for name, value in {
        "bench": bench,
        "output": output,
        "context_features": _pooled(net, context),
        "target_features": _pooled(net, target),
        "output_features": _pooled(net, output),
    }.items():
        object.__setattr__(scoring, name, value)
    assert np.array_equal(found, success.succeeded(scoring))
    assert found.any() and not found.all()


WEIGHT = (0.0, 0.1, 0.2, 0.5, 0.8, 1.0)


def test_the_png_is_one() -> None:
    rgb = scene(3, 48)
    with Image.open(io.BytesIO(png(rgb))) as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), rgb)
