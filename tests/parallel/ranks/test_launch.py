"""Ranks started by torch's own launcher: they die, are cancelled, hang, and refuse."""

import builtins
import json
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from kontext.errors import (
    DivergedError,
    KontextError,
    RanksError,
    StallError,
    WiringError,
)
from kontext.parallel.attention import KernelError
from kontext.parallel.ranks.launch import _failure, launch, ranks
from kontext.parallel.ranks.rank import Job
from kontext.train.loop.checkpoint import Checkpoints
from kontext.train.loop.fit import fit
from schemas.recipes import load_recipe
from schemas.sections.training import LaunchConfig
from tests.parallel.launched import STEPS, Summing, as_rank
from tests.train.broken_runs import free_port, processes

ROOT = Path(__file__).parents[3]


class Cancelled(Exception):
    """What an orchestrator raises in the main thread when SIGTERM comes."""


@pytest.fixture
def cancellable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """SIGTERM raises in the main thread, as it does in a Prefect run."""

    def cancel(*_: object) -> None:
        raise Cancelled

    monkeypatch.chdir(ROOT)  # `python -m` finds the tests from here
    before = signal.signal(signal.SIGTERM, cancel)
    yield
    signal.signal(signal.SIGTERM, before)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_dead_rank_starts_again_and_a_cancelled_run_goes_on_later(
    tmp_path: Path, cancellable: None
) -> None:
    """Rank 1 is killed after 5 of 12 steps, the run is cancelled at 8, one process ends it."""
    job = Job(
        work="tests.parallel.launched:train",
        arguments={"folder": str(tmp_path), "die_at": 5, "wait_at": 8},
        folder=tmp_path / "ranks",
    )
    told: list[int] = []

    def progress(done: int, total: int, losses: Mapping[str, float | None]) -> None:
        told.append(done)
        if done == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Cancelled):
        launch(job, LaunchConfig(launcher="torchrun", ranks=2, max_restarts=1), progress)
    started = [json.loads(line) for line in (tmp_path / "pids").read_text().splitlines()]
    assert sorted(rank for rank, _ in started) == [0, 0, 1, 1]
    assert not any(alive(pid) for _, pid in started)
    assert told[:5] == [1, 2, 3, 4, 5] and told[5] in (3, 5)  # from the last checkpoint on
    checkpoints = Checkpoints(tmp_path / "checkpoints", every=2)
    assert checkpoints.finished()[-1] == told[-1] == 8  # saved when it was cancelled

    method, unbroken = Summing(), Summing()
    history = fit(method, checkpoints=checkpoints)
    assert [row["step"] for row in history] == list(range(STEPS))
    for one, other in zip(history, fit(unbroken), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)


def test_a_hanging_rank_ends_the_run_and_every_rank_tells_where_it_was(tmp_path: Path) -> None:
    job = Job(work="tests.parallel.launched:hang", folder=tmp_path, stall_seconds=600)
    port = free_port()
    started = [processes().Process(target=as_rank, args=(job, i, 2, port)) for i in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert all(process.exitcode != 0 for process in started)
    stacks = [(tmp_path / f"stacks-rank-{i}.txt").read_text() for i in range(2)]
    assert "wait_for_what_never_comes" in stacks[1]
    assert "wait_for_what_never_comes" not in stacks[0] and "in fit" in stacks[0]
    error = _failure(job, "")
    assert isinstance(error, StallError)
    assert "no step for 5 s, after 3 in this process" in str(error)


@pytest.mark.parametrize(
    "error", [WiringError("overfit", "nothing is learnt"), RanksError("died"), KernelError("no")]
)
def test_every_error_comes_back_from_a_rank_as_it_was(tmp_path: Path, error: KontextError) -> None:
    job = Job(work="", folder=tmp_path)
    job.fail(error)
    found = _failure(job, "")
    assert (type(found), str(found), vars(found)) == (type(error), str(error), vars(error))


def test_a_refusal_keeps_its_class_and_is_not_tried_again(tmp_path: Path) -> None:
    job = Job(work="tests.parallel.launched:refuse", folder=tmp_path)
    for _ in range(2):
        process = processes().Process(target=as_rank, args=(job, 0, 1, free_port()))
        process.start()
        process.join(120)
        assert process.exitcode == 1
    error = _failure(job, "")
    assert type(error) is DivergedError and str(error) == "loss is not finite"
    (tmp_path / "failure.json").unlink()
    assert str(_failure(job, "torchrun ended with code 1")) == "torchrun ended with code 1"


def test_without_ray_the_recipe_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without_ray(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "ray":
            raise ModuleNotFoundError("No module named 'ray'", name="ray")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_ray)
    job = Job(work="tests.parallel.launched:train", folder=tmp_path)
    with pytest.raises(RanksError, match=r"launcher 'ray': No module named 'ray'; pip install"):
        launch(job, LaunchConfig(launcher="ray", ranks=2), lambda *_: None)


def test_ranks_need_a_launcher_and_zero_means_one_per_device() -> None:
    with pytest.raises(ValueError, match="more than one rank needs launcher"):
        LaunchConfig(ranks=2)
    assert ranks(LaunchConfig(launcher="torchrun", ranks=3)) == 3
    assert ranks(LaunchConfig(ranks=0)) >= 1
    recipe = load_recipe("demo", ("finetune.launch.ranks=2", "finetune.launch.launcher=torchrun"))
    assert recipe.finetune.launch.ranks == 2
