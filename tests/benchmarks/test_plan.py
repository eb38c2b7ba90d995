"""The committed comparison is of the cases that the benchmark has, and holds its goal."""

import json

from benchmarks.plan import CASES, GOAL
from benchmarks.timing import RESULTS


def test_the_result_has_every_case_and_holds_the_goal() -> None:
    rows = json.loads((RESULTS / "plan-cpu.json").read_text())["rows"]
    assert [row["case"] for row in rows] == list(CASES) and len(rows) >= 10
    for row in rows:
        assert row["error"] == row["predicted"] / row["peak"] - 1, row
        assert abs(row["error"]) <= GOAL, row
