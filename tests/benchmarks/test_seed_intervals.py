"""Recipes without a difference are held to have none, whatever their seeds; a small part of
`python -m benchmarks.seed_intervals`.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import seed_intervals
from benchmarks.seed_intervals import held


def test_trainings_that_differ_are_a_sample_too() -> None:
    used, alone = held(3, 0.25, 80, np.random.default_rng(1))
    assert used >= 0.9 > alone


def test_it_says_what_it_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seed_intervals, "SEEDS", (2,))
    monkeypatch.setattr(seed_intervals, "LEAST", 1.01)
    out = tmp_path / "found.json"
    with pytest.raises(SystemExit) as left:
        seed_intervals.main(["--simulations", "5", "--out", str(out)])
    assert left.value.code == 1
    rows = json.loads(out.read_text())["rows"]
    assert [row["spread"] for row in rows] == [0.0, 0.1, 0.25]
