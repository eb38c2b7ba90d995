"""Planted effects are within the intervals, and unchanged nights raise no alarm; a small part of
`python -m benchmarks.intervals`.
"""

import numpy as np
import pytest

from benchmarks.intervals import FIGURES, KEPT, LEAST, MOST_FALSE, covered, least, table
from benchmarks.nights import NIGHTS, alarms, noisy
from benchmarks.planted import related, sizes

BY_NAME = {figure.name: figure for figure in FIGURES}
NIGHT = {night.name: night for night in NIGHTS}


@pytest.mark.parametrize("name", [name for name in BY_NAME if "difference" not in name])
@pytest.mark.parametrize("clusters", [8, 13, 40])
def test_intervals_of_related_items_hold_the_truth(name: str, clusters: int) -> None:
    cell = covered(BY_NAME[name], clusters, 0.3, 100, seed=1, others=False)
    assert cell.coverage[KEPT] >= LEAST - 0.03  # of 100; the whole benchmark has 300 and more


@pytest.mark.parametrize("name", [name for name in BY_NAME if "difference" in name])
def test_differences_hold_the_truth_and_no_difference_is_called_none(name: str) -> None:
    cell = covered(BY_NAME[name], 13, 0.1, 100, seed=1, others=False)
    assert cell.coverage[KEPT] >= 1 - MOST_FALSE


def test_other_methods_stand_beside_it_and_the_one_before_holds_less() -> None:
    cell = covered(BY_NAME["rate 80%"], 8, 0.3, 60, seed=0)
    assert cell.coverage["wider of both"] < 0.93 < cell.coverage[KEPT]
    assert cell.width["Wilson"] < cell.width[KEPT]
    assert least([cell])["bootstrap"] == (cell.coverage["bootstrap"],) * 2
    assert table([cell]).splitlines()[2].startswith("| rate 80% | 8 | 0.3 | ")


@pytest.mark.parametrize("name", [name for name in NIGHT if name.startswith("unchanged")])
def test_unchanged_nights_raise_no_alarm(name: str) -> None:
    assert alarms(NIGHT[name], 12, seed=1) <= 1 / 12


@pytest.mark.parametrize("name", [n.name for n in NIGHTS if n.least is not None])
def test_a_fall_of_15_points_raises_the_alarm(name: str) -> None:
    assert alarms(NIGHT[name], 5, seed=1) >= 0.8


def test_planted_items_are_related_as_asked() -> None:
    rng = np.random.default_rng(0)
    of = np.repeat(np.arange(2000), 5)
    outcomes = related(0.7, of, 0.3, rng)
    means = outcomes.reshape(2000, 5).mean(axis=1)
    # the variance of a mean of 5 is p (1 - p) (1 + 4 x correlation) / 5
    assert outcomes.mean() == pytest.approx(0.7, abs=0.03)
    assert means.var() == pytest.approx(0.21 * 2.2 / 5, rel=0.1)
    of = sizes(13, rng)
    assert len(of) == 60 and set(of) == set(range(13))


def test_noise_changes_as_many_outcomes_as_asked_and_no_rate() -> None:
    rng = np.random.default_rng(0)
    outcomes = rng.random(20_000) < 0.8
    again = noisy(outcomes, 0.15, rng)
    assert (outcomes != again).mean() == pytest.approx(0.15, abs=0.01)
    assert again.mean() == pytest.approx(outcomes.mean(), abs=0.01)
