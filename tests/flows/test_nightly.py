import pyarrow as pa

from flows.nightly import comparable, rows_of
from kontext.evaluate.metrics.success import MEASURE
from kontext.evaluate.versions import compare_again
from tests.evaluate.test_versions import items, table


def test_rates_of_another_measure_are_not_compared() -> None:
    now = {"local": 0.2, "success_measure": MEASURE}
    assert comparable({"local": 0.9, "success_measure": MEASURE}, now)
    assert not comparable({"local": 0.9}, now)  # of a version that does not say
    assert not comparable({"local": 0.9, "success_measure": "another"}, now)


def night(local: int, style: int, tolerance: float = 0.05) -> dict[str, bool]:
    """Which figures are worse, of 50 of 60 local and 40 of 60 style edits."""

    def evaluation(*passed: int) -> pa.Table:
        return table(items(passed[0]), items(passed[1], category="style"))

    found = compare_again(evaluation(50, 40), evaluation(local, style), tolerance)
    return {row["figure"]: row["worse"] for row in rows_of(found)}


def test_a_rate_that_fell_beyond_the_tolerance_is_worse() -> None:
    assert night(50, 40) == night(50, 60) == {"all": False, "local": False, "style": False}
    assert night(41, 40) == {"all": True, "local": True, "style": False}
    assert not any(night(41, 40, tolerance=0.2).values())
    assert not any(night(48, 40).values())  # two items of sixty may be noise


def test_rows_say_what_was_published_and_what_is_now() -> None:
    rows = rows_of(compare_again(table(items(50)), table(items(41))))
    assert rows[1]["figure"] == "local" and rows[1]["verdict"] == "worse"
    assert round(rows[1]["published"], 3) == 0.833 and round(rows[1]["now"], 3) == 0.683
    assert rows[1]["low"] < -0.15 < rows[1]["high"] < 0
