"""A run that is killed again and again ends, bit for bit, as one that never was."""

from __future__ import annotations

import signal
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.train.broken_runs import METHODS, POINTS, STEPS, run, told

KILLS = st.lists(
    st.tuples(st.integers(0, STEPS - 1), st.sampled_from(POINTS)), min_size=5, max_size=5
)


@cache
def unbroken(method: str) -> tuple[dict[str, Any], list[tuple[int, dict[str, float]]]]:
    with tempfile.TemporaryDirectory() as folder:
        assert run(method, Path(folder), 0) == 0
        return checkpoint(Path(folder)), told(Path(folder))


def checkpoint(folder: Path) -> dict[str, Any]:
    payload: dict[str, Any] = torch.load(folder / "c.pt", weights_only=True)
    payload.pop("clock", None)  # seconds are the one thing that may differ
    return payload


def assert_same(one: Any, other: Any, where: str = "checkpoint") -> None:
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}/{index}")
    else:
        assert one == other, where


@pytest.mark.parametrize("method", sorted(METHODS))
@settings(
    max_examples=2,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(kills=KILLS, every=st.integers(1, 5))
def test_five_kills_change_no_bit(method: str, kills: list[tuple[int, str]], every: int) -> None:
    expected, losses = unbroken(method)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        codes = [run(method, folder, every, kill) for kill in sorted(kills)]
        assert set(codes) <= {0, -signal.SIGKILL}
        assert run(method, folder, every) == 0
        assert_same(checkpoint(folder), expected)
        # also the steps that were done twice gave the losses they had given before
        assert all(found == losses[step][1] for step, found in told(folder))


def test_the_runs_are_really_killed(tmp_path: Path) -> None:
    for point in POINTS:
        assert run("flow", tmp_path, 2, (5, point)) == -signal.SIGKILL, point
    assert torch.load(tmp_path / "c.pt", weights_only=True)["step"] == 4
    assert (tmp_path / "c.partial").exists()
