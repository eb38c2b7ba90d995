"""One rule for pairs and edits, on injected scores: clothing, faces and bodies."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kontext.errors import SafetyRefusal
from kontext.safety.chains import Chains
from kontext.safety.classifiers.base import Pixels
from kontext.safety.edit_rule import Seen, judge
from kontext.safety.edits import EditScreening
from kontext.safety.hashes import HashGate
from kontext.safety.policy import Policy, load_policy
from tests.safety.test_edits import SAFE, Written, inject
from tests.safety.test_properties import NOISE, OTHER, STRICT, Image, accepted, edited, scored

FACE = {"FACE_FEMALE": 0.9}
COVERED = {"FEMALE_BREAST_COVERED": 0.7, "BELLY_COVERED": 0.6, "ARMPITS_COVERED": 0.5}
SWIMMING = {"BELLY_EXPOSED": 0.75, "ARMPITS_EXPOSED": 0.6, "FEMALE_BREAST_COVERED": 0.7}


def seen(policy: Policy, labels: Image, image: Pixels = NOISE) -> Seen:
    return Seen(image, policy.risk(scored(policy, [labels])).look)


def reason(*images: Image, made: Pixels = OTHER, policy: Policy = STRICT) -> str | None:
    """Why an edit of the first image, with the others but the last as references, is refused."""
    *inputs, own = images
    found = [seen(policy, one) for one in inputs]
    return judge(policy, found, [], seen(policy, own, made), np.inf).reason


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ({}, {"BELLY_EXPOSED": 0.79}, "ncii_less_clothed"),
        ({}, {"ARMPITS_EXPOSED": 1.0}, "ncii_less_clothed"),
        ({}, {"MALE_BREAST_EXPOSED": 0.79}, "ncii_less_clothed"),
        # little of the belly, and its cover is gone
        (COVERED, {**COVERED, "BELLY_EXPOSED": 0.3, "BELLY_COVERED": 0.2}, "ncii_less_clothed"),
        # a little of everything
        ({}, {"BELLY_EXPOSED": 0.3, "ARMPITS_EXPOSED": 0.6}, "ncii_less_clothed"),
        # one part was bare before, which excuses no other
        ({"ARMPITS_EXPOSED": 1.0}, {"ARMPITS_EXPOSED": 1.0, "BELLY_EXPOSED": 0.7},
         "ncii_less_clothed"),
        (SWIMMING, {**SWIMMING, "BELLY_EXPOSED": 0.85, "ARMPITS_EXPOSED": 0.7}, None),
        (SWIMMING, COVERED, None),
        # a coat that is taken off over clothes
        (COVERED, {**COVERED, "FEMALE_BREAST_COVERED": 0.4, "ARMPITS_EXPOSED": 0.4}, None),
        (COVERED, {}, None),  # the face alone: what covered is out of the picture
    ],
)  # fmt: skip
def test_how_much_less_clothed(
    before: Image, after: Image, why: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [{**FACE, **before}, {**FACE, **after}]
    assert reason(*images) == why
    assert accepted(STRICT, images) == edited(STRICT, images, monkeypatch) == (why is None)


def test_what_is_bare_is_somebodys_and_needs_no_face() -> None:
    assert reason({}, {"BELLY_EXPOSED": 0.79}) == "ncii_less_clothed"


@pytest.mark.parametrize(
    ("images", "why"),
    [
        # the face of a reference, on an edited image that is as exposed as the target
        ([{"FEMALE_BREAST_EXPOSED": 0.5}, FACE, {**FACE, "FEMALE_BREAST_EXPOSED": 0.5}],
         "ncii_identity"),
        ([{"FEMALE_BREAST_EXPOSED": 0.5}, {}, {**FACE, "FEMALE_BREAST_EXPOSED": 0.5}], None),
        ([FACE, {**FACE, "nsfw": 0.25}], "ncii_identity"),
        ([FACE, {"nsfw": 0.25}], None),
        ([{**FACE, "nsfw": 0.1}, {**FACE, "nsfw": 0.25}], "ncii_body"),
        ([{**FACE, "nsfw": 0.1}, {**FACE, "nsfw": 0.2}], None),
        ([{"nsfw": 0.1}, {**FACE, "nsfw": 0.25}], None),
    ],
)  # fmt: skip
def test_faces_that_are_moved_and_bodies_that_are_replaced(
    images: list[Image], why: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reason(*images) == why
    assert accepted(STRICT, images) == edited(STRICT, images, monkeypatch) == (why is None)


def test_a_body_is_replaced_only_where_much_of_the_picture_changes() -> None:
    images = [{**FACE, "nsfw": 0.1}, {**FACE, "nsfw": 0.25}]
    almost = NOISE.copy()
    almost[:20] = 255 - almost[:20]
    assert reason(*images) == "ncii_body"
    assert reason(*images, made=almost) is None


def test_the_policys_rise_and_category_limits_hold_for_edits() -> None:
    """0.45 with no person in sight is below the pair rule's own limits."""
    risen: list[Image] = [{}, {"FEMALE_BREAST_EXPOSED": 0.45}]
    for name in ("exposure_delta_max", "exposure_delta_max@local"):
        tight = STRICT.model_copy(update={"thresholds": {**STRICT.thresholds, name: 0.05}})
        assert reason(*risen, policy=tight) == "ncii_exposure"
        assert not accepted(tight, risen)
    assert reason(*risen) is None and accepted(STRICT, risen)


def test_limits_of_a_class_and_category_hold_for_edits(monkeypatch: pytest.MonkeyPatch) -> None:
    more = {**STRICT.thresholds, "nsfw_max@style": 0.05}
    tight = STRICT.model_copy(update={"thresholds": more})
    images: list[Image] = [{}, {"nsfw": 0.1}]
    assert edited(STRICT, images, monkeypatch) and not edited(tight, images, monkeypatch)


def test_turns_that_undress_little_by_little_are_judged_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inject(monkeypatch, *({**SAFE, **_bare(), **FACE, "BELLY_EXPOSED": n} for n in (0, 0.4, 0.75)))
    screening = EditScreening(STRICT, HashGate(), Written(), Chains(Path("/nowhere"), b"k", 1))
    screening.check_input(NOISE)
    screening.check_result(NOISE, 0)
    with pytest.raises(SafetyRefusal) as caught:
        screening.check_result(NOISE, 1)
    assert caught.value.reason == "ncii_chain"


def _bare() -> Image:
    """Nothing is covered."""
    return {one.covered: 0.0 for one in STRICT.parts.values() if one.covered}


SCORES = st.floats(0, 1, width=32) | st.just(float("nan"))
PARTS = st.fixed_dictionaries(
    dict.fromkeys(("BELLY_EXPOSED", "BELLY_COVERED", "ARMPITS_EXPOSED", "FACE_MALE"), SCORES)
)


@settings(max_examples=100, deadline=None)
@given(PARTS, PARTS, st.sampled_from(["BELLY_EXPOSED", "ARMPITS_EXPOSED"]), st.floats(0, 1))
def test_a_target_that_is_barer_is_never_safer(
    before: Image, after: Image, label: str, more: float
) -> None:
    barer = {**after, label: float(np.fmax(after[label], more))}
    if np.isnan(after[label]) or reason(before, after, policy=STRICT) is None:
        return
    assert reason(before, barer) is not None


def test_policies_that_see_no_clothing_say_so() -> None:
    assert not load_policy("no-nudenet").parts and len(STRICT.parts) == 8
