from flows.nightly import comparable, compare
from kontext.evaluate.metrics.success import MEASURE


def test_rates_of_another_measure_are_not_compared() -> None:
    now = {"local": 0.2, "success_measure": MEASURE}
    assert comparable({"local": 0.9, "success_measure": MEASURE}, now)
    assert not comparable({"local": 0.9}, now)  # of a version that does not say
    assert not comparable({"local": 0.9, "success_measure": "another"}, now)


def test_a_rate_that_fell_beyond_the_tolerance_is_worse() -> None:
    published = {"local": 0.9, "recolouring": 0.9, "teacher/text": 0.5, "psnr": 30.0, "style": None}
    now = {"local": 0.85, "recolouring": 0.7, "teacher/text": 0.3, "psnr": 10.0, "style": 0.1}
    worse = {row["figure"]: row["worse"] for row in compare(published, now, 0.1)}
    assert worse == {"local": False, "recolouring": True, "teacher/text": True}
