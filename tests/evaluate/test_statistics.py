"""Intervals of related items. How often they hold a planted truth: tests/benchmarks."""

import math

import numpy as np
import pytest
from scipy import stats

from kontext.evaluate import student_t
from kontext.evaluate.statistics import (
    _freedom,
    cluster_mean,
    cluster_rate,
    cluster_ratio,
    spread,
    wilson,
)

Z95 = 1.959963984540054


def alone(count: int) -> list[str]:
    """Every item is a cluster of its own."""
    return [str(i) for i in range(count)]


@pytest.mark.parametrize("df", [1, 1.5, 3, 7.25, 39, 1e5])
@pytest.mark.parametrize("level", [0.6, 0.9, 0.95, 0.99])
def test_students_t_is_scipys(df: float, level: float) -> None:
    found = student_t.quantile(df, level)
    assert found == pytest.approx(stats.t.ppf((1 + level) / 2, df), rel=1e-8)
    assert student_t.two_sided(found, df) == pytest.approx(1 - level, rel=1e-8)
    assert student_t.two_sided(-60.0, df) == pytest.approx(2 * stats.t.sf(60, df), rel=1e-6)
    assert (student_t.two_sided(0.0, df), student_t.two_sided(math.inf, df)) == (1, 0)


@pytest.mark.parametrize(("k", "n"), [(8, 10), (45, 60), (1, 7), (299, 300)])
def test_wilson_bounds_solve_the_score_equation(k: int, n: int) -> None:
    # (p - k/n)^2 = z^2 p (1 - p) / n, Wilson 1927
    low, high = wilson(k / n, n, Z95)
    for bound in (low, high):
        assert (bound - k / n) ** 2 == pytest.approx(Z95**2 * bound * (1 - bound) / n, rel=1e-9)
    assert low < k / n < high


def test_wilson_known_values() -> None:
    assert wilson(0.8, 10, Z95) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert (wilson(0, 10, Z95)[0], wilson(1, 10, Z95)[1]) == (0.0, 1.0)
    assert wilson(0, 10, Z95)[1] == pytest.approx(0.2775328, abs=1e-6)


def test_the_mean_of_independent_items_has_students_interval() -> None:
    values = np.random.default_rng(0).normal(size=12)
    found = cluster_mean(values, alone(12))
    known = stats.t.interval(0.95, 11, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(known, rel=1e-9)
    assert (found.n, found.clusters, found.method) == (12, 12, "cluster-t")


def test_clusters_of_one_size_have_the_interval_of_their_means() -> None:
    values = np.random.default_rng(0).normal(size=(8, 5))
    found = cluster_mean(values.ravel(), np.repeat(alone(8), 5).tolist())
    means = values.mean(axis=1)
    known = stats.t.interval(0.95, 7, means.mean(), stats.sem(means))
    assert (found.low, found.high) == pytest.approx(known, rel=1e-9)


def test_the_variance_is_the_jackknifes() -> None:
    rng = np.random.default_rng(1)
    top, bottom, of = rng.random(30), rng.random(30), np.repeat(np.arange(6), (2, 3, 4, 5, 7, 9))
    found = spread(top, bottom, of.astype(str).tolist())
    left = np.array([top[of != k].sum() / bottom[of != k].sum() for k in range(6)])
    assert found.variance == pytest.approx(5 / 6 * ((left - found.value) ** 2).sum())
    assert 1 <= found.df < 5


def test_degrees_of_freedom_are_satterthwaites() -> None:
    sizes = np.array([2.0, 3, 4, 5, 7, 9])
    weights = sizes / sizes.sum()
    pull = np.eye(6) - np.outer(weights, np.ones(6))
    for variances in (sizes, sizes**2):
        covariance = pull @ np.diag(variances) @ pull.T
        product = np.diag(1 / (1 - weights) ** 2) @ covariance
        known = np.trace(product) ** 2 / np.trace(product @ product)
        assert _freedom(weights, variances) == pytest.approx(known)
    assert _freedom(np.full(7, 1 / 7), np.ones(7)) == pytest.approx(6)


def test_small_flag_starts_below_thirty() -> None:
    assert cluster_rate(np.ones(29), alone(29)).small
    assert not cluster_rate(np.ones(30), alone(30)).small


def test_ratio_is_sum_over_sum_not_mean_of_ratios() -> None:
    top, bottom = np.array([1.0, 1.0]), np.array([1.0, 4.0])
    assert cluster_ratio(top, bottom, ["a", "b"]).value == pytest.approx(0.4)


def test_nan_items_are_left_out_and_not_counted() -> None:
    found = cluster_mean(np.array([1.0, np.nan, 3.0]), ["a", "b", "c"])
    assert (found.value, found.n, found.clusters) == (2.0, 2, 2)


def test_nothing_is_unknown_and_json_ready() -> None:
    assert cluster_mean(np.array([np.nan]), ["a"]).n == 0
    empty = cluster_rate(np.zeros(0), ())
    assert math.isnan(empty.value) and (empty.low, empty.high) == (0.0, 1.0)
    assert empty.as_dict()["value"] is None


def test_one_cluster_says_nothing_of_others() -> None:
    values = np.array([0.0, 1.0, 1.0])
    found = cluster_mean(values, ["a"] * 3)
    assert found.value == pytest.approx(2 / 3) and found.as_dict()["low"] is None
    rate = cluster_rate(values, ["a"] * 3)
    assert (rate.value, rate.low, rate.high) == (pytest.approx(2 / 3), 0.0, 1.0)


def test_zero_denominator_is_undefined_not_an_error() -> None:
    found = cluster_ratio(np.ones(2), np.zeros(2), ["a", "b"])
    assert math.isnan(found.value) and found.method == "undefined"
    one = cluster_ratio(np.ones(3), np.array([1.0, 0, 0]), ["a", "b", "b"])  # all in one cluster
    assert one.value == 3 and math.isnan(one.low)


def test_a_rate_is_no_narrower_than_of_independent_items_and_wider_if_they_agree() -> None:
    values = np.repeat([1.0, 1, 1, 1, 0, 0], 10)
    mixed, related = (
        cluster_rate(values, [str(i // 10 if together else i % 6) for i in range(60)])
        for together in (False, True)
    )
    t = student_t.quantile(5)
    assert (mixed.low, mixed.high) == pytest.approx(wilson(4 / 6, 60, t))  # deviations too small
    # a variance of 2/45 is that of 5 independent items
    assert (related.low, related.high) == pytest.approx(wilson(4 / 6, 5, t))


def test_where_all_items_agree_a_correlation_is_assumed() -> None:
    names = [str(i // 6) for i in range(60)]
    found = cluster_rate(np.ones(60), names)
    assert found.high == 1 and 0.7 < found.low < 0.85
    assert found.low < cluster_rate(np.ones(60), alone(60)).low


def test_a_share_of_seeds_counts_as_a_rate() -> None:
    found = cluster_rate(np.full(40, 0.5), alone(40))
    assert (found.low, found.high) == pytest.approx(wilson(0.5, 40, student_t.quantile(39)))
