"""Alarms on what filters do, at the numbers from which they are raised."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from kontext.data.quality.health import (
    Filter,
    Health,
    allowed,
    compared,
    drift,
    filters,
    health,
    require_steady,
)
from kontext.errors import CanaryError, FilterError, RecipeError
from kontext.safety.policy import load_policy
from schemas.recipes import RECIPES
from schemas.risks import risks

L1 = Filter("l1", safety=False, varies=True)
LIMITS = {"l1_min": 0.002}
LAST = Health(count=5000, rate=0.9, mean=0.2, std=0.1, limited=True)


def screened(rejected: int, count: int = 1000) -> tuple[pa.Table, list[list[str]]]:
    reasons = [["l1_min"] if row < rejected else ["ssim_max"] for row in range(count)]
    return pa.table({"l1": np.linspace(0, 1, count).astype(np.float32)}), reasons


def test_what_rejects_some_is_measured() -> None:
    found = health(L1, *screened(100), LIMITS, ())
    assert found == Health(1000, 0.9, 0.5, pytest.approx(0.288964, abs=1e-5), True)


@pytest.mark.parametrize(("rejected", "told"), [(0, "all of 1000 items pass"), (1000, "none of")])
def test_all_or_nothing_is_an_error_from_1000_pairs_on(rejected: int, told: str) -> None:
    with pytest.raises(FilterError, match=f"filter l1 is broken: {told}") as stopped:
        health(L1, *screened(rejected), LIMITS, ())
    assert stopped.value.filter == "l1" and not isinstance(stopped.value, CanaryError)
    assert health(L1, *screened(min(rejected, 999), 999), LIMITS, ()).rate in (0, 1)


def test_what_a_recipe_names_or_has_no_limit_may_let_all_pass() -> None:
    assert health(L1, *screened(0), LIMITS, {"l1"}).rate == 1
    assert not health(L1, *screened(0), {"ssim_max": 0.9}, ()).limited
    for name, value, limits in (
        ("l1_min@local", 0.1, True),
        ("l1_max", 0.1, True),
        ("l10_min", 0.1, False),
    ):
        assert L1.limits({name: value}) is limits
    plain = Filter("pdq_distance", safety=False, varies=False)
    assert plain.limits({"pdq_distance_min": 4}) and not plain.limits({"pdq_distance_min": 0})
    assert Filter("change_kept", safety=False, varies=False).limits({})


def test_names_of_filters_are_checked() -> None:
    known = filters(risks(("open-nsfw",)))
    assert allowed(("l1",), known, "may_drift") == {"l1"}
    assert allowed(("safety",), known, "may_drift") == {"nsfw_max", "exposure_delta"}
    with pytest.raises(RecipeError, match=r"screen\.may_drift: there is no filter 'l1_min'"):
        allowed(("l1_min",), known, "may_drift")


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_shipped_recipes_name_filters_that_there_are(name: str) -> None:
    """And all of those that let everything pass in drawn sources, by the default policy."""
    config = RECIPES[name]().screen
    policy = load_policy(config.policy)
    known = filters(risks(policy.classifiers))
    named = allowed(config.may_pass_all, known, "may_pass_all")
    assert {one.name for one in known if one.limits(policy.thresholds)} == named


@pytest.mark.parametrize(
    ("now", "sigmas"),
    [
        (LAST, 0),
        (replace(LAST, rate=0.895), 0),  # half a point is nothing to stop for, however sure
        (replace(LAST, rate=0.85), 7.6),
        (replace(LAST, mean=0.205), 0),  # a twentieth of a deviation
        (replace(LAST, mean=0.22), 10),
        (replace(LAST, mean=0.22, count=999), 0),
        (replace(LAST, rate=0.85, mean=0.22), 10),
        (replace(LAST, mean=0.21, std=0.0, count=1000), 7.1),
    ],
)
def test_drift_in_standard_errors(now: Health, sigmas: float) -> None:
    assert drift(now, LAST) == pytest.approx(sigmas, abs=0.05)
    assert drift(LAST, now) == pytest.approx(sigmas, abs=0.05)


def test_honest_samples_hardly_ever_drift() -> None:
    """Of 2,000 pairs of versions drawn alike, fewer than one in 100 is stopped."""
    rng = np.random.default_rng(0)
    stopped = 0
    for _ in range(2000):
        one, two = (
            Health(
                2000, (rng.random(2000) < 0.9).mean(), (v := rng.random(2000)).mean(), v.std(), True
            )
            for _ in range(2)
        )
        stopped += drift(one, two) > 3
    assert stopped < 20


def test_scores_of_another_scorer_are_not_compared() -> None:
    before = {name: dict(vars(LAST)) for name in ("clip_t", "l1")}
    now = {name: replace(LAST, mean=0.4) for name in ("clip_t", "l1", "ssim")}
    other = compared(now, before, same_clip=False)
    assert other["clip_t"].drift == 0 and other["l1"].drift == 100 and other["ssim"].drift is None
    assert compared(now, before, same_clip=True)["clip_t"].drift == 100
    assert compared(now, None, same_clip=True) == now
    fewer = {name: replace(one, rate=0.5) for name, one in now.items()}
    assert (compared(fewer, before, same_clip=False)["clip_t"].drift or 0) > 3


def test_drift_stops_the_run_unless_it_is_accepted_by_name() -> None:
    far = {"l1": replace(LAST, drift=3.2), "ssim": replace(LAST, drift=9.0, limited=False)}
    with pytest.raises(FilterError, match=r"3\.2 standard errors from screen/abc's.*may_drift"):
        require_steady(far, (), "screen/abc")
    require_steady(far, {"l1"}, "screen/abc")
    require_steady({"l1": replace(LAST, drift=3.0)}, (), "screen/abc")
