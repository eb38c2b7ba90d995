import json
import os
import random
import subprocess
import sys
from pathlib import Path

from tests.faults.kills import Point, points
from tests.faults.stage_kills import STAGE
from tests.faults.stage_kills import points as stage_points


def test_points_are_drawn_from_the_seed_and_workers_die_while_there_are_some() -> None:
    drawn = points(3, 10, files=200, busy=range(20, 60))
    assert (
        drawn == points(3, 10, files=200, busy=range(20, 60)) != points(4, 10, 200, range(20, 60))
    )
    assert [point.victim for point in drawn] == ["worker", "run"] * 5
    assert all(20 <= point.seen < 60 for point in drawn if point.victim == "worker")
    assert all(0 < point.seen < 200 for point in drawn)
    assert points(3, 1, 2, [1]) == [Point("worker", 1)]


def test_points_of_a_stage_are_of_its_ranks_where_it_has_some(tmp_path: Path) -> None:
    for number, found in enumerate(([STAGE, 0, 9], ["ranks", 0, 3], ["ranks", 1, 2])):
        (tmp_path / f"beats-{number}.json").write_text(json.dumps(found))
        if not number:
            assert {each.work for each in stage_points(random.Random(1), tmp_path, 9)} == {STAGE}
    drawn = stage_points(random.Random(1), tmp_path, 5)
    assert sorted(drawn) == [("ranks", 0, 1), ("ranks", 0, 2), ("ranks", 0, 3),
                             ("ranks", 1, 1), ("ranks", 1, 2)]  # fmt: skip
    again = [stage_points(random.Random(2), tmp_path, 3) for _ in range(2)]
    assert again[0] == again[1]


def test_a_killed_stage_goes_on_as_if_it_had_not_been() -> None:
    """One seeded kill of one stage; `make kills` has five of each, and two ranks."""
    command = [sys.executable, "-m", "tests.faults.kills", "--training", "--alone"]
    done = subprocess.run(
        [*command, "--kills", "1", "--only", "adapters"],
        capture_output=True, text=True, check=False, timeout=900,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.count("the same on 1") == 1, done.stdout[-2000:]
