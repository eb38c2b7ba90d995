"""Ranks started by Ray Train, where the extra [ray] is installed."""

from pathlib import Path

import pytest

from kontext.parallel.ranks.launch import launch
from kontext.parallel.ranks.rank import Job
from kontext.train.loop.checkpoint import Checkpoints
from schemas.sections.training import LaunchConfig
from tests.parallel.launched import STEPS
from tests.ray_cluster import PATIENCE

ROOT = Path(__file__).parents[3]


def test_ray_starts_a_dead_rank_again(
    ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # a process that is not needed
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", PATIENCE)
    paths = {"PYTHONPATH": str(ROOT)}
    ray.init(ray_cluster, runtime_env={"env_vars": paths}, configure_logging=False)
    job = Job(
        work="tests.parallel.launched:train",
        arguments={"folder": str(tmp_path), "die_at": 5},
        folder=tmp_path / "ranks",
    )
    told: list[int] = []
    try:
        launch(
            job,
            LaunchConfig(launcher="ray", ranks=2, max_restarts=1),
            lambda done, total, losses: told.append(done),
        )
    finally:
        ray.shutdown()
    assert told[:5] == [1, 2, 3, 4, 5] and told[-1] == STEPS and told[5] in (3, 5)
    assert Checkpoints(tmp_path / "checkpoints").finished()[-1] == STEPS
