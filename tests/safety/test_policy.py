import json
import re
from importlib import resources

import numpy as np
import pytest

from kontext.errors import CanaryError, GateError, RecipeError
from kontext.safety import screening
from kontext.safety.classifiers import load_classifier
from kontext.safety.policy import (
    classifiers_for,
    filter_health,
    fingerprint,
    load_policy,
    packaged_policies,
)
from kontext.store.catalog.views import THRESHOLDS
from schemas.sections.data import ScreenConfig

SHIPPED = ["adult-free-commercial", "no-nudenet", "research", "strict"]


def test_strict_is_the_default_and_three_are_shipped_beside_the_one_without_nudenet():
    assert packaged_policies() == SHIPPED
    assert load_policy("default") == load_policy("strict")
    ids = {load_policy(name).id for name in SHIPPED}
    assert len(ids) == 4 and all(re.fullmatch(r"[a-z-]+-2@[0-9a-f]{16}", one) for one in ids)


@pytest.mark.parametrize("name", SHIPPED)
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


def test_adult_free_needs_npm_models_and_says_so(tmp_path, monkeypatch):
    policy = load_policy("adult-free-commercial")
    with pytest.raises(RecipeError, match=r"classifier nsfwjs, which screen\.classifiers leaves"):
        classifiers_for(policy, ScreenConfig())
    named = ScreenConfig(classifiers=policy.classifiers)
    assert classifiers_for(policy, named) == ("open-nsfw", "nsfwjs", "face-api-age")
    monkeypatch.setenv("KONTEXT_NODE_MODULES", str(tmp_path))
    for name in policy.classifiers[1:]:
        load_classifier.cache_clear()
        with pytest.raises(GateError, match=f"{name} is not installed: `make safety-models`"):
            load_classifier(name)


def test_adult_free_drops_young_faces_beside_the_least_exposure():
    policy = load_policy("adult-free-commercial")
    # an apparent age of 20; of 40; of 20, by each of the two that score exposure
    young = np.array([0.588, 0.196, 0.588, 0.588], np.float32)
    nsfw = np.array([0.01, 0.08, 0.08, 0.01], np.float32)
    drawn = np.array([0.01, 0.2, 0.01, 0.2], np.float32)
    none = np.zeros(4, np.float32)
    scores = {"nsfw": nsfw, "FACE_API_YOUNG_FACE": young, "NSFWJS_HENTAI": drawn}
    risk = policy.risk({**scores, "NSFWJS_PORN": none, "NSFWJS_SEXY": none}, policy.risks)
    fired = [one and one.name for one in policy.combined(risk.scores)]
    assert fired == [None, None, "young_nsfw", "young_explicit"]
    found = screening.refused(risk, np.zeros(4, bool), policy)
    assert found.tolist() == [False, False, True, True]


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
    with pytest.raises(
        RecipeError, match="known: adult-free-commercial, no-nudenet, research, strict"
    ):
        load_policy("strictest")
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


def text_of(name="strict"):
    """A packaged policy's file."""
    folder = resources.files("kontext.safety").joinpath("policies")
    return folder.joinpath(f"{name}.yaml").read_text("utf-8")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("schema: 1", "schema: 2", "schema: Input should be 1"),
        ("schema: 1\n", "", "write it in that of schema 1"),
        ("limit: 0.3", "limit: 30", "classes.nsfw.limit: Input should be less than 1"),
        ("limit: 0.3", "limit: NaN", "classes.nsfw.limit"),
        ("limit: 0.3", "limit: -0.1", "greater than or equal to 0"),
        ("    limit: 0.3\n", "", "classes.nsfw.limit: Field required"),
        ("nsfw: 1.0", "nsfw: -1", "classes.nsfw.labels.nsfw"),
        ("nsfw: 1.0", "nsfw: 0.5", "largest weight must be 1"),
        ("action: drop", "action: ignore", "classes.nsfw.action"),
        ("classifiers: [open-nsfw, nudenet]", "classifiers: [nudenet]", "open-nsfw"),
        ("classifiers: [open-nsfw, nudenet]", "classifiers: [open-nsfw]", "classifier nudenet"),
        ("l1_min: 0.002", "l1_mn: 0.002", "l1_mn"),
        ("edit_days: 30", "edit_days: 0", "retention.edit_days"),
        ("combinations: []", "combinations: [{name: a, above: {nsfw: 0.1, gore: 0.1}}]", "gore"),
        ("combinations: []", "combinations: [{name: a, above: {nsfw: 0.1}}]", "above"),
        ("version: strict-2", "version: [", "line"),
        ("person_min: 0.5", "person_min: 1", "pair.person_min"),
        ("less_clothed_max: 0.5", "less_clothed_max: 1", "pair.less_clothed_max"),
        ("less_clothed_max: 0.5", "less_clothed_max: NaN", "pair.less_clothed_max"),
        ("  less_clothed_max: 0.5", "  #", "pair.less_clothed_max: Field required"),
        ("identity_rise_max: 0.7", "identity_rise_max: -1", "pair.identity_rise_max"),
        ("body_score_max: 0.8", "body_score_max: 30", "pair.body_score_max"),
        ("  body_changed_max: 0.5", "  #", "pair.body_changed_max: Field required"),
        ("COVERED, weight: 0.6", "COVERED, weight: 0", "pair.parts.armpits.weight"),
    ],
)
def test_a_file_that_is_no_policy_says_which_key_is_wrong(tmp_path, old, new, message):
    path = tmp_path / "own.yaml"
    assert old in text_of()
    path.write_text(text_of().replace(old, new, 1))
    with pytest.raises(RecipeError, match=message):
        load_policy(str(path))


def test_a_policy_in_the_earlier_form_is_said_how_to_bring_over(tmp_path):
    known = load_policy("strict")
    path = tmp_path / "own.yaml"
    path.write_text(json.dumps(known.model_dump(mode="json")))
    with pytest.raises(RecipeError, match=r"earlier JSON files: end its name in \.json"):
        load_policy(str(path))
    path.with_suffix(".json").write_text(path.read_text())
    assert load_policy(str(path.with_suffix(".json"))) == known
    (tmp_path / "text.json").write_bytes(b"\xff")
    with pytest.raises(RecipeError, match="is not text"):
        load_policy(str(tmp_path / "text.json"))


def test_comments_change_no_digest_and_limits_do(tmp_path):
    path, config = tmp_path / "own.yaml", ScreenConfig(policy=str(tmp_path / "own.yaml"))
    path.write_text(f"# mine\n{text_of()}")
    assert fingerprint(config) == fingerprint(ScreenConfig()) == load_policy("strict").digest
    path.write_text(text_of().replace("limit: 0.3", "limit: 0.29"))
    assert fingerprint(config) != load_policy("strict").digest
    assert load_policy(str(path)).version == "strict-2"
    assert load_policy(str(path)).id != load_policy("strict").id


def test_limits_of_a_category_and_combinations(tmp_path):
    own = text_of().replace("limit: 0.3", "limit: 0.3\n    limit_by_category: {text: 0.1}")
    both = "combinations: [{name: both, above: {nsfw: 0.1, nudity: 0.2}, action: stop_run}]"
    path = tmp_path / "own.yaml"
    path.write_text(own.replace("combinations: []", both))
    policy = load_policy(str(path))
    assert policy.thresholds["nsfw_max@text"] == 0.1
    scores = {"nsfw": [0.11, 0.11, 0.1, np.nan], "nudity": [0.21, 0.2, 0.9, 0.3]}
    found = policy.combined({n: np.array(v, np.float32) for n, v in scores.items()})
    assert [one and one.name for one in found] == ["both", None, None, "both"]
    assert policy.action("combination_both") == "stop_run"
    assert policy.action("nsfw") == policy.action("ncii_exposure") == "drop"
    assert load_policy("research").action("nudity") == "quarantine"


def scores_of(policy, **given):
    labels = {
        "nsfw",
        *policy.risks.get("nudity", {}),
        *policy.exposure_weights,
        *policy.person_labels,
        *policy.face_labels,
        *(name for one in policy.parts.values() for name in (one.bare, *one.cover)),
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
    with pytest.raises(GateError, match="all of 1000 items pass"):
        filter_health("nsfw", np.linspace(0, 1, 1000), passed, safety=True)
    assert filter_health("nsfw", np.linspace(0, 1, 1000), passed, may_pass_all=True) == 1.0
    assert filter_health("nsfw", np.full(999, 0.3), passed[:999]) == 1.0
    assert filter_health("nsfw", np.linspace(0, 1, 1000), np.arange(1000) < 900) == 0.9


def test_what_a_policy_does_with_what_it_stops(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(text_of().replace("action: drop", "action: stop_run", 1))
    key, ids, apart = bytes(32), ["a" * 64, "b" * 64], np.zeros(2, bool)
    for name, outcome in (("research", "quarantine"), ("strict", "drop")):
        policy = load_policy(name)
        found = risk_of(policy, nsfw=0.9)
        (row,) = screening.image_decisions(ids, found, apart, policy, VERSIONS, key)
        assert (row.outcome, row.reason, row.policy_version) == (outcome, "nsfw", policy.id)
        both = ["combination_nsfw_and_nudity"]
        (row,) = screening.pair_decisions(ids[:1], [None], both, np.zeros(1), policy, key)
        assert (row.outcome, row.policy_version) == ("drop", policy.id)
    stopping = load_policy(str(path))
    with pytest.raises(GateError, match="strict-2 stops the run: something is above nsfw"):
        found = risk_of(stopping, nsfw=0.9)
        screening.image_decisions(ids, found, apart, stopping, VERSIONS, key)


VERSIONS = {"open-nsfw": "o", "nudenet": "n"}


def risk_of(policy, **given):
    """Risks of two images, the first of which has these scores."""
    scores = scores_of(policy, **given)
    return policy.risk({name: np.append(v, np.float32(0)) for name, v in scores.items()})


def test_a_label_that_nobody_has_scored_lets_nothing_pass():
    policy = load_policy("strict")
    scores = scores_of(policy)
    for label in ("nsfw", "ANUS_EXPOSED", "FACE_MALE"):
        risk = policy.risk({name: v for name, v in scores.items() if name != label})
        parts = (*risk.scores.values(), risk.exposure, risk.person)
        assert any(np.isnan(part[0]) for part in parts)
