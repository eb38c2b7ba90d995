"""Checkpoints in a folder and on S3: what is written, kept, found and refused."""

import os
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kontext.errors import Stopped, StoreError, WeightsError
from kontext.parallel import checkpoint
from kontext.parallel.world import World
from kontext.store.objects.local import LocalStore
from kontext.train.loop.checkpoint import Checkpoints
from kontext.train.loop.fit import fit
from kontext.train.loop.state import Ema, TrainState, flattened, unflattened
from kontext.train.optim.build import MatrixMuon, adamw
from tests.train.loop.test_guard import STEPS, Injected, assert_equal
from tests.train.toy import toy_model


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.s3)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place for checkpoints."""
    if request.param == "file":
        return f"file://{tmp_path}/checkpoints"
    return str(request.getfixturevalue("s3_url"))


def test_a_run_is_found_again_and_the_last_few_checkpoints_are_kept(url: str) -> None:
    first, whole = Injected(), Injected()
    fit(whole)
    first.total_steps = 13
    fit(first, checkpoints=Checkpoints(url, every=3, keep=2))
    checkpoints = Checkpoints(url, every=3, keep=2)
    assert checkpoints.finished() == [12, 13]
    assert {key[:13] for key in checkpoints._store.list()} == {"step-00000012", "step-00000013"}
    assert [checkpoints._manifest(n)["record"]["step"] for n in (12, 13)] == [12, 13]
    second = Injected()
    assert fit(second, checkpoints=checkpoints) == whole.state.history
    assert_equal(second, whole)


def test_without_its_manifest_a_checkpoint_was_never_finished(url: str) -> None:
    first, whole = Injected(), Injected()
    fit(whole)
    first.total_steps = 12
    fit(first, checkpoints=Checkpoints(url, every=4))
    checkpoints = Checkpoints(url, every=4)
    checkpoints._store.delete("step-00000012/manifest")
    checkpoints._store.put("step-00000012/rank-00000", b"half of it")
    assert checkpoints.finished() == [8]
    second = Injected()
    assert fit(second, checkpoints=checkpoints) == whole.state.history
    assert_equal(second, whole)


def test_what_is_written_is_what_was_there_when_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writing waits until the weights have changed."""
    changed, real = threading.Event(), LocalStore.put_file

    def late(self: LocalStore, *args: Any, **kwargs: Any) -> str:
        assert changed.wait(60)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(LocalStore, "put_file", late)
    method = Injected()
    method.step(0)
    before = [tensor.clone() for tensor in method.result()]
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(method.state)
    method.step(1)
    method.state.history.append({"step": 1.0})
    assert not torch.equal(before[0], method.result()[0])
    changed.set()
    checkpoints.wait()
    again = Injected()
    assert Checkpoints(tmp_path).restore(again.state) and not again.state.history
    assert all(map(torch.equal, before, again.result()))


def test_a_failed_write_is_raised_and_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, checkpoints = Injected(), Checkpoints(tmp_path)
    checkpoints.save(method.state)
    checkpoints.wait()

    def full(self: LocalStore, *args: Any, **kwargs: Any) -> str:
        raise OSError("no space left")

    monkeypatch.setattr(LocalStore, "put_file", full)
    method.state.step = 1
    checkpoints.save(method.state)
    with pytest.raises(StoreError, match="was not written: rank 0: no space left"):
        checkpoints.wait()
    assert checkpoints.finished() == [0]


def test_a_run_that_is_asked_to_end_is_saved(tmp_path: Path) -> None:
    method, checkpoints = Injected(), Checkpoints(tmp_path, every=50)
    with pytest.raises(Stopped, match=f"ended at step 7 of {STEPS}"):
        fit(method, checkpoints=checkpoints, stop=lambda: method.state.step == 7)
    assert checkpoints.finished() == [7]


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    fit(Injected(), checkpoints=Checkpoints(tmp_path))
    other = Injected()
    other.state.modules["model"] = nn.Linear(4, 5)
    with pytest.raises(WeightsError, match=r"'modules/model/weight' is \(4, 4\), not \(5, 4\)"):
        fit(other, checkpoints=Checkpoints(tmp_path))


def test_a_state_taken_apart_is_put_together_again() -> None:
    model = toy_model()
    hidden = [p for p in model.parameters() if p.ndim == 2]
    state = TrainState(
        {"model": model},
        {"muon": MatrixMuon(hidden, 0.1, 0.0), "adam": adamw(model.parameters(), 1e-3)},
        {"model": Ema(model, 0.9)},
        extra={"counts": [1, (2, torch.ones(3))]},
    )
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    for optimizer in state.optimizers.values():
        optimizer.step()
    tensors, rest = flattened(state)
    assert all(not torch.is_tensor(value) for value in _leaves(rest))
    whole = unflattened(tensors, rest)
    assert whole["extra"]["counts"][1][1].tolist() == [1, 1, 1]
    assert isinstance(whole["extra"]["counts"][1], tuple)
    assert whole["optimizers"]["adam"].keys() == {"state", "param_groups"}
    assert whole["optimizers"]["adam"]["param_groups"][0]["betas"] == (0.9, 0.95)
    assert len([v for v in _leaves(whole) if torch.is_tensor(v)]) == len(tensors)


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [leaf for inner in value for leaf in _leaves(inner)]
    return [value]


def test_every_kind_of_tensor_comes_back_with_its_bits(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    tensors = {
        "none": torch.empty(0, 3),
        "number": torch.tensor(7),
        "half": torch.randn(5, 3, generator=draw).bfloat16(),
        "byte": torch.arange(7, dtype=torch.uint8),
        "column": torch.randn(4, 6, generator=draw).t(),
        "nan": torch.tensor([float("nan"), float("inf"), -0.0]),
    }
    store = LocalStore(tmp_path)
    checkpoint.write(tensors, store, "here", {"a": (1, None)}, World()).result()
    manifest = checkpoint.read_manifest(store, "here")
    assert manifest["record"] == {"a": (1, None)}
    found = {name: torch.empty_like(tensor) for name, tensor in tensors.items()}
    checkpoint.read(found, store, manifest, World())
    for name, tensor in tensors.items():
        one, other = (t.contiguous().reshape(-1).view(torch.uint8) for t in (found[name], tensor))
        assert torch.equal(one, other), name


def test_neighbouring_parts_are_read_with_one_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {f"t{i}": torch.full((10,), float(i)) for i in range(9)}
    store, asked = LocalStore(tmp_path), []
    checkpoint.write(tensors, store, "here", None, World()).result()
    manifest, real = checkpoint.read_manifest(store, "here"), store.get
    monkeypatch.setattr(store, "get", lambda *args: (asked.append(args), real(*args))[1])
    found = {name: torch.zeros(10) for name in tensors}
    checkpoint.read(found, store, manifest, World())
    assert len(asked) == 1
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    monkeypatch.setattr(checkpoint, "_AT_ONCE", 100)
    found = {name: torch.zeros(10) for name in tensors}
    checkpoint.read(found, store, manifest, World())
    assert len(asked) == 1 + 9
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_what_killed_writers_left_is_deleted_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    gone = subprocess.Popen(["true"])
    gone.wait()
    names = {
        "dead": f"kontext-checkpoint-{gone.pid}-a",
        "fresh": f"kontext-checkpoint-{gone.pid}-b",
        "alive": f"kontext-checkpoint-{os.getpid()}-c",
        "other": "kontext-checkpoint-x-d",
    }
    for name in names.values():
        (tmp_path / name).write_bytes(b"part")
        os.utime(tmp_path / name, (1, 1))
    os.utime(tmp_path / names["fresh"])
    fit(Injected(), checkpoints=Checkpoints(tmp_path / "checkpoints", every=3))
    left = {path.name for path in tmp_path.iterdir()} - {"checkpoints"}
    assert left == set(names.values()) - {names["dead"]}
