import math

import numpy as np
import pytest

from kontext.evaluate.statistics import Interval, cluster_mean, cluster_ratio, wider, wilson


@pytest.mark.parametrize(("k", "n"), [(8, 10), (45, 60), (1, 7), (299, 300)])
def test_wilson_bounds_solve_the_score_equation(k: int, n: int) -> None:
    # (p - k/n)^2 = z^2 p (1 - p) / n, Wilson 1927
    interval, z = wilson(k, n), 1.959963984540054
    for bound in (interval.low, interval.high):
        assert (bound - k / n) ** 2 == pytest.approx(z * z * bound * (1 - bound) / n, rel=1e-9)
    assert interval.low < k / n < interval.high


def test_wilson_known_values() -> None:
    eight = wilson(8, 10)
    assert (eight.low, eight.high) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert (wilson(0, 10).low, wilson(10, 10).high) == (0.0, 1.0)
    assert wilson(0, 10).high == pytest.approx(0.2775328, abs=1e-6)


def test_wilson_of_nothing_is_unknown_and_json_ready() -> None:
    empty = wilson(0, 0)
    assert math.isnan(empty.value) and (empty.low, empty.high) == (0.0, 1.0)
    assert empty.as_dict()["value"] is None


def test_the_wider_interval_covers_both() -> None:
    narrow = Interval(0.5, 0.4, 0.6, 60, 8, "wilson")
    wide = Interval(0.5, 0.3, 0.55, 60, 8, "cluster-bootstrap")
    found = wider(narrow, wide)
    assert (found.value, found.low, found.high, found.n) == (0.5, 0.3, 0.6, 60)
    assert wider(narrow, Interval(math.nan, math.nan, math.nan, 0, 0, "x")) == narrow


def test_small_flag_starts_below_thirty() -> None:
    assert wilson(5, 29).small and not wilson(5, 30).small


def test_ratio_is_sum_over_sum_not_mean_of_ratios() -> None:
    top, bottom = np.array([1.0, 1.0]), np.array([1.0, 4.0])
    assert cluster_ratio(top, bottom, ["a", "b"], draws=50).value == pytest.approx(0.4)


def test_nan_items_are_left_out_and_not_counted() -> None:
    found = cluster_mean(np.array([1.0, np.nan, 3.0]), ["a", "b", "c"], draws=50)
    assert (found.value, found.n, found.clusters) == (2.0, 2, 2)


def test_all_nan_is_unknown() -> None:
    assert cluster_mean(np.array([np.nan]), ["a"], draws=10).n == 0


def test_one_cluster_has_nothing_to_resample() -> None:
    found = cluster_mean(np.array([0.0, 1.0, 1.0]), ["a"] * 3, draws=100)
    assert found.low == found.high == found.value == pytest.approx(2 / 3)


def test_zero_denominator_is_undefined_not_an_error() -> None:
    found = cluster_ratio(np.ones(2), np.zeros(2), ["a", "b"], draws=10)
    assert math.isnan(found.value) and found.method == "undefined"


def test_same_seed_same_interval() -> None:
    values = np.random.default_rng(3).normal(size=40)
    names = [str(i // 2) for i in range(40)]
    assert cluster_mean(values, names, 200, seed=1) == cluster_mean(values, names, 200, seed=1)
    assert cluster_mean(values, names, 200, seed=1) != cluster_mean(values, names, 200, seed=2)


def _coverage(by_cluster: bool, trials: int = 200) -> float:
    """Share of 95 % intervals that contain the true mean 0, with strongly related items."""
    rng = np.random.default_rng(0)
    names = [str(i // 6) for i in range(40 * 6)]
    hits = 0
    for trial in range(trials):
        shared = np.repeat(rng.normal(size=40), 6)
        values = shared + 0.3 * rng.normal(size=240)
        groups = names if by_cluster else [str(i) for i in range(240)]
        found = cluster_mean(values, groups, draws=200, seed=trial)
        hits += found.low <= 0 <= found.high
    return hits / trials


def test_cluster_bootstrap_covers_where_the_item_bootstrap_does_not() -> None:
    assert 0.89 <= _coverage(by_cluster=True) <= 0.985
    assert _coverage(by_cluster=False) < 0.75


def test_wilson_covers_small_samples() -> None:
    # exact coverage: sum binomial probabilities of the outcomes whose interval holds p
    n = 20
    for p in (0.1, 0.5, 0.8):
        inside = 0.0
        for k in range(n + 1):
            interval = wilson(k, n)
            if interval.low <= p <= interval.high:
                inside += math.comb(n, k) * p**k * (1 - p) ** (n - k)
        assert 0.92 <= inside <= 0.99
