import math

import pytest

from kontext.evaluate.report.verdict import headline, unfit_line
from kontext.evaluate.score import Goal, Scores
from kontext.evaluate.statistics import Interval


def scores(*rates: float) -> Scores:
    """Goals of 60 % with these rates, and one that is no rate of edits."""
    measured = [Interval(rate, rate, rate, 60, 60, "wilson") for rate in rates]
    goals = [Goal(f"{n}", "edits", "≥", 0.6, "%", one) for n, one in enumerate(measured)]
    codec = Goal(
        "autoencoder", "PSNR", "≥", 28.0, "dB", Interval(30.0, 29.0, 31.0, 60, 60, "wilson")
    )
    return Scores({}, {}, [], [*goals, codec], {}, {})


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ((0.0, 0.7), "edits images it has never seen"),
        ((0.0, 0.3, math.nan), "no kind of edit reaches its goal yet"),
        ((0.0, 0.0), "cannot edit yet"),
        ((math.nan,), "cannot edit yet"),
        ((), "cannot edit yet"),
    ],
)
def test_the_headline_says_no_more_than_was_measured(rates: tuple[float, ...], said: str) -> None:
    assert headline(scores(*rates)).endswith(said)


def test_unfit_metrics_are_one_line_with_counts() -> None:
    rows = [
        {"metric": "clip_text", "category": "local", "why": "identity ranks first"},
        {"metric": "clip_text", "category": "style", "why": "identity ranks first"},
        {"metric": "outside_l1", "category": "style", "why": "identity is beaten"},
    ]
    line = unfit_line(rows)
    assert "\n" not in line
    assert line.startswith("2 metrics are unfit") and "(1 in local, 2 in style)" in line
    assert unfit_line([]) == "every metric is fit in every category"
