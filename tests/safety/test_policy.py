import json

import numpy as np
import pytest

from kontext.errors import CanaryError, GateError, RecipeError
from kontext.safety.policy import classifiers_for, filter_health, load_policy
from kontext.store.catalog.views import THRESHOLDS
from schemas.sections.data import ScreenConfig


@pytest.mark.parametrize("name", ["default", "no-nudenet"])
def test_packaged_policies_are_complete(name):
    policy = load_policy(name)
    assert set(policy.thresholds) <= set(THRESHOLDS)
    assert policy.version.startswith(name)
    assert policy.limit("nsfw_max", True) < policy.limit("nsfw_max", False)
    assert json.loads(json.dumps(policy.model_dump(mode="json")))["thresholds"] == policy.thresholds


def test_only_the_default_policy_needs_nudenet():
    assert classifiers_for(load_policy("default"), ScreenConfig()) == ("open-nsfw", "nudenet")
    alone = ScreenConfig(classifiers=("open-nsfw",))
    assert classifiers_for(load_policy("no-nudenet"), alone) == ("open-nsfw",)
    with pytest.raises(RecipeError, match="needs the classifier nudenet"):
        classifiers_for(load_policy("default"), alone)


def limits(data, **changes):
    """The policy with other limits; None: without it."""
    changed = {**data["thresholds"], **changes}
    return {"thresholds": {name: value for name, value in changed.items() if value is not None}}


def test_a_policy_of_ones_own(tmp_path):
    data = load_policy("default").model_dump(mode="json")
    path = tmp_path / "own.json"
    path.write_text(json.dumps({**data, "version": "own-1"}))
    assert load_policy(str(path)).version == "own-1"
    for change, message in (
        (limits(data, nsfw_mx=0.2), "nsfw_mx"),
        (limits(data, nsfw_max=None), "nsfw_max are required"),
        ({"extra": 1}, "extra"),
        ({"ncii": {"person_min": 3}}, "ncii"),
        *((limits(data, nsfw_max=value), "nsfw_max") for value in (30, 1, -0.1)),
        *((limits(data, nsfw_max=value), "thresholds.nsfw_max") for value in ("NaN", "Infinity")),
        (limits(data, nudity_max_unmatchable=2), "which stops nothing"),
        (limits(data, **{"nsfw_max@local": 7}), "which stops nothing"),
        (limits(data, l1_min="-Infinity"), "thresholds.l1_min"),
        (limits(data, exposure_delta_max=None), "exposure_delta_max is required"),
        ({"ncii": {**data["ncii"], "exposure_rise_max": 1}}, "ncii.exposure_rise_max"),
        ({"ncii": {**data["ncii"], "person_min": 1}}, "ncii.person_min"),
        ({"risks": {**data["risks"], "nsfw": {"nsfw": -1}}}, "risks.nsfw"),
        ({"risks": {**data["risks"], "nsfw": {"nsfw": 0.01}}}, "largest weight must be 1"),
        ({"risks": {"nsfw": {"nsfw": 1}}}, "names nudenet, but not its nudity"),
        ({"exposure_weights": {"BELLY_EXPOSED": 0.1}}, "largest weight must be 1"),
        ({"risks": {"nsfw": {"nsfw": 1}, "gore": {"x": 1}}}, "no classifier finds 'gore'"),
        ({"classifiers": ["open-nsfw"]}, "nudity needs the classifier nudenet"),
        (limits(data, nudity_max=None), "and a limit nudity_max"),
    ):
        path.write_text(json.dumps({**data, **change}))
        with pytest.raises(RecipeError, match=message):
            load_policy(str(path))
    with pytest.raises(RecipeError, match="known: default, no-nudenet"):
        load_policy("strict")
    with pytest.raises(RecipeError, match="cannot be read"):
        load_policy(str(tmp_path / "none.json"))


def test_a_policy_file_from_before_risks_had_names_is_read_as_it_was(tmp_path):
    for name in ("default", "no-nudenet"):
        known = load_policy(name)
        data = known.model_dump(mode="json")
        weights = data.pop("risks").get("nudity", {})
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({**data, "nudity_weights": weights}))
        assert load_policy(str(path)) == known


def scores_of(policy, **given):
    labels = {
        "nsfw",
        *policy.risks.get("nudity", {}),
        *policy.exposure_weights,
        *policy.person_labels,
    }
    return {name: np.array([given.get(name, 0.0)], np.float32) for name in labels}


def test_risk_combines_labels_and_keeps_nan():
    policy = load_policy("default")
    risk = policy.risk(scores_of(policy, FEMALE_BREAST_EXPOSED=0.5, BUTTOCKS_EXPOSED=0.6))
    assert risk.scores["nudity"][0] == pytest.approx(0.5)
    assert risk.person[0] == pytest.approx(0.6)  # no face, but what is bare is somebody's
    assert policy.risk(scores_of(policy, BUTTOCKS_EXPOSED=0.5)).scores["nudity"][
        0
    ] == pytest.approx(0.4)
    assert np.isnan(policy.risk(scores_of(policy, ANUS_EXPOSED=np.nan)).scores["nudity"][0])
    assert policy.risk(scores_of(policy, FACE_MALE=0.8)).person[0] == pytest.approx(0.8)
    without = load_policy("no-nudenet")
    risk = without.risk({"nsfw": np.array([0.3], np.float32)})
    assert (risk.scores["nudity"][0], risk.person[0]) == (0, 1)  # unknown: assume a person
    assert risk.exposure[0] == pytest.approx(0.3)


def test_inert_filters_stop_the_run():
    passed = np.ones(1000, bool)
    with pytest.raises(CanaryError, match="nsfw is broken: its score is constant"):
        filter_health("nsfw", np.full(1000, 0.3), passed, safety=True)
    with pytest.raises(GateError, match="l1 is broken: its score is constant") as quality:
        filter_health("l1", np.full(1000, 0.3), passed)
    with pytest.raises(GateError, match="none of 1000") as strict:
        filter_health("nsfw", np.linspace(0, 1, 1000), ~passed, safety=True)
    # neither pauses anybody's schedules
    assert not {type(quality.value), type(strict.value)} & {CanaryError}
    with pytest.raises(GateError, match="none of 1000"):
        filter_health("nsfw", np.linspace(0, 1, 1000), ~passed)
    assert filter_health("nsfw", np.full(999, 0.3), passed[:999]) == 1.0
    assert filter_health("nsfw", np.linspace(0, 1, 1000), np.arange(1000) < 900) == 0.9
