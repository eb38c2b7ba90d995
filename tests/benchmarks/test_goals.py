"""A goal's verdict is the figure's, and the catalog's benchmark has one for each."""

from typing import Any

import pytest

from benchmarks import catalog
from benchmarks.goals import goal

GOOD = {
    "questions_p95_seconds": 1.5,
    "commit_100k_seconds": 5.0,
    "at_wrong": 0,
    "versions": 50,
    "torn_reads": 0,
    "reads_during_commits": 9,
}


def test_figure_limit_and_verdict_are_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert goal("time", 1.5, 1.5, " s") and not goal("time", 1.6, 1.5, " s")
    assert goal("rate", 1.0, 1.0, " x", at_least=True)
    assert not goal("rate", 0.9, 1.0, " x", at_least=True)
    assert capsys.readouterr().out.splitlines() == [
        "time: 1.5 s (at most 1.5 s): reached",
        "time: 1.6 s (at most 1.5 s): NOT REACHED",
        "rate: 1 x (at least 1 x): reached",
        "rate: 0.9 x (at least 1 x): NOT REACHED",
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("questions_p95_seconds", 1.6),
        ("commit_100k_seconds", 5.2),
        ("at_wrong", 1),
        ("torn_reads", 1),
    ],
)
def test_each_goal_of_the_catalog_counts(name: str, value: Any) -> None:
    assert catalog.verdict(GOOD)
    assert not catalog.verdict({**GOOD, name: value})
