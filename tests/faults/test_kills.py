from tests.faults.kills import Point, points


def test_points_are_drawn_from_the_seed_and_workers_die_while_there_are_some() -> None:
    drawn = points(3, 10, files=200, busy=range(20, 60))
    assert (
        drawn == points(3, 10, files=200, busy=range(20, 60)) != points(4, 10, 200, range(20, 60))
    )
    assert [point.victim for point in drawn] == ["worker", "run"] * 5
    assert all(20 <= point.seen < 60 for point in drawn if point.victim == "worker")
    assert all(0 < point.seen < 200 for point in drawn)
    assert points(3, 1, 2, [1]) == [Point("worker", 1)]
