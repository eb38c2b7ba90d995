"""Two versions on the same items: the difference, its interval, and the verdict."""

import math

import numpy as np
import pytest

from kontext.evaluate.paired import Difference, _score, difference, family
from kontext.evaluate.student_t import quantile


def versions(both: int, lost: int, gained: int, neither: int, each: int = 1) -> Difference:
    """Of items with these outcomes, `each` of them a cluster."""
    before = np.repeat([1.0, 1, 0, 0], (both, lost, gained, neither))
    after = np.repeat([1.0, 0, 1, 0], (both, lost, gained, neither))
    return difference(before, after, [str(i // each) for i in range(len(before))])


def test_the_score_is_tangos() -> None:
    """z = (d - delta) / sqrt(variance at the rates that are likeliest if delta is true)."""
    lost, gained, n, delta = 12, 4, 60, -0.05
    rates = np.linspace(0, 0.5, 200_001)[1:]  # of items that only the earlier version gets right
    more = rates + delta
    fine = (more > 0) & (rates + more < 1)
    rates, more = rates[fine], more[fine]
    likelihood = lost * np.log(rates) + gained * np.log(more)
    likelihood += (n - lost - gained) * np.log(1 - rates - more)
    best = likelihood.argmax()
    variance = n * (rates[best] + more[best] - delta**2)
    known = (gained - lost - n * delta) / math.sqrt(variance)
    assert _score(lost, gained, n, 1.0)(delta) == pytest.approx(known, rel=1e-4)
    # of no difference it is McNemar's
    assert _score(lost, gained, n, 1.0)(0.0) == pytest.approx(-8 / math.sqrt(16))


def test_the_interval_is_where_the_score_is_the_quantile() -> None:
    found = versions(30, 12, 4, 14)
    worth = 1 / max(1.0, 60 / 59)  # a variance over items, of independent ones
    score, t = _score(12, 4, 60, worth), quantile(59)
    assert score(found.interval.low) == pytest.approx(t, rel=1e-6)
    assert score(found.interval.high) == pytest.approx(-t, rel=1e-6)
    assert found.value == pytest.approx(-8 / 60)
    assert (found.before, found.after) == pytest.approx((42 / 60, 34 / 60))
    assert (found.lost, found.gained) == (12, 4)


@pytest.mark.parametrize("gained", [0, 3, 9, 20])
def test_an_interval_without_zero_and_a_small_p_are_the_same(gained: int) -> None:
    found = versions(30, 8, gained, 20)
    apart = not found.interval.low <= 0 <= found.interval.high
    assert apart == (found.p < 0.05)


def test_related_items_say_less() -> None:
    loose, related = versions(40, 10, 0, 10), versions(40, 10, 0, 10, each=10)
    assert related.interval.low < loose.interval.low and related.p > loose.p


def test_the_same_outcomes_are_equivalent_if_there_are_enough_of_them() -> None:
    many, few = versions(200, 0, 0, 100), versions(8, 0, 0, 4)
    assert (many.value, many.p, many.words) == (0, 1, "equivalent")
    assert few.verdict == "undecided" and few.more > 20
    assert few.words == f"undecided: {few.more} more items needed"


def test_verdicts() -> None:
    assert versions(100, 60, 10, 100).verdict == "worse" and versions(100, 60, 10, 100).fell
    assert versions(100, 10, 60, 100).verdict == "better"
    small = versions(2000, 40, 12, 2000)  # surely worse, by less than the margin
    assert small.p < 0.01 and small.verdict == "equivalent" and not small.fell
    assert versions(20, 12, 4, 14).verdict == "undecided"


def test_more_items_of_the_same_kind_decide() -> None:
    found = versions(30, 6, 5, 19)
    assert found.verdict == "undecided"
    times = (found.interval.n + found.more) / found.interval.n
    counts = (round(n * times) for n in (30, 5.5, 5.5, 19))
    assert versions(*counts).verdict == "equivalent"


def test_the_detectable_difference_is_found_in_four_of_five_cases() -> None:
    rng, found = np.random.default_rng(0), versions(90, 10, 10, 90)
    rate, drawn = found.detectable, 0
    for _ in range(100):  # a share of 10 % is discordant, as in what was measured
        lost = rng.binomial(200, 0.05 + rate / 2)
        gained = rng.binomial(200, max(0.05 - rate / 2, 0))
        drawn += versions(100, lost, gained, 100 - lost - gained).p < 0.05
    assert 0.65 <= drawn / 100 <= 0.95


def test_one_cluster_decides_nothing() -> None:
    found = versions(0, 20, 0, 0, each=100)
    assert (found.interval.low, found.interval.high, found.verdict) == (-1, 1, "undecided")
    assert found.more > 0


def test_several_figures_are_judged_together() -> None:
    figures = {str(i): versions(30, 12 - i, 4, 14) for i in range(5)}
    judged = family(figures)
    ps = sorted(each.p for each in figures.values())
    # Benjamini and Hochberg: the least of p * m / rank over this rank and later ones
    known = [min(ps[j] * 5 / (j + 1) for j in range(i, 5)) for i in range(5)]
    assert sorted(each.q for each in judged.values()) == pytest.approx(known)
    assert all(each.q >= each.p for each in judged.values())
    assert family({}) == {}


def test_it_is_ready_for_json() -> None:
    plain = versions(30, 12, 4, 14).as_dict()
    assert plain["verdict"] == "undecided" and plain["n"] == 60
    assert plain["low"] < plain["value"] < plain["high"]
