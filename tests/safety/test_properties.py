"""What holds for every policy and all scores, on the path of pairs and on that of edits.

Scores are drawn; no picture is involved but one of noise.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kontext.data.quality.pair_rule import judge_pairs
from kontext.data.quality.pairs import Edges
from kontext.errors import GateError, RecipeError, SafetyRefusal
from kontext.safety import edits as module
from kontext.safety.chains import Chains
from kontext.safety.classifiers import load_classifier
from kontext.safety.classifiers.base import ImageClassifier, Pixels, Scores
from kontext.safety.edits import EditScreening
from kontext.safety.hashes import HashGate
from kontext.safety.policy import Policy, load_policy, packaged_policies
from kontext.store.catalog.views import acceptance
from schemas.risks import risks
from tests.safety.classifiers.npm_models import missing
from tests.safety.test_edits import Written
from tests.safety.test_policy import text_of
from tests.store.catalog.test_views import GOOD
from tests.store.lake_rows import rows

Image = dict[str, float]  # label -> score
QUALITY = {name: value for name, value in GOOD.items() if name not in ("nsfw_max", "nudity_max")}
NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
OTHER = 255 - NOISE
LABELS = (
    "ARMPITS_EXPOSED",
    "BELLY_COVERED",
    "nsfw",
    "FEMALE_BREAST_EXPOSED",
    "BUTTOCKS_EXPOSED",
    "BELLY_EXPOSED",
    "FACE_MALE",
)
# near the limits of the policies, so that both sides of them are met
LEVELS = st.sampled_from([0.0, 0.05, 0.1, 0.16, 0.21, 0.25, 0.31, 0.39, 0.45, 0.55, 0.65, 0.9])
IMAGES = st.fixed_dictionaries(dict.fromkeys(LABELS, LEVELS))
PAIRS = st.lists(IMAGES, min_size=2, max_size=4)  # edited, references, target
STRICT = load_policy("strict")
CATEGORIES = {"exposure_delta_max@local": 0.2, "nsfw_max@text": 0.1, "nudity_max@local": 0.3}
WITH_CATEGORIES = STRICT.model_copy(update={"thresholds": {**STRICT.thresholds, **CATEGORIES}})
# one that asks a model from npm is among them after `make safety-models`
SHIPPED = [own for own in map(load_policy, packaged_policies()) if not missing(own.classifiers)]
POLICIES = st.sampled_from([*SHIPPED, WITH_CATEGORIES])
NO_SCORES = (np.nan, np.inf, -np.inf, -1.0, -1e-6, 1.0001, 99.0)
many = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def scored(policy: Policy, images: Sequence[Image]) -> dict[str, Any]:
    """Label -> [N] of the policy's classifiers; what is not said is 0."""
    labels = [label for name in policy.classifiers for label in load_classifier(name).labels]
    return {n: np.array([i.get(n, 0.0) for i in images], np.float32) for n in labels}


class Bank:
    """Pixels of pairs in which everything changes."""

    def onto(self, pixel_id: str, target: str) -> Pixels:
        return NOISE

    def rgb(self, pixel_id: str) -> Pixels:
        return OTHER


def accepted(
    policy: Policy, images: Sequence[Image], left_out: str = "", category: str = "local"
) -> bool:
    """Whether the acceptance view takes a pair of these images; the last is the target."""
    ids = [f"{n:064x}" for n in range(len(images))]
    pair = {"pair_id": "p", "relation_class": category, "context_ids": ids[:-1]}
    pairs = rows("pairs", {**pair, "target_id": ids[-1]})
    edges = Edges.of(pairs, ids)
    scores = scored(policy, images)
    scores.pop(left_out, None)
    risk = policy.risk(scores, risks(policy.classifiers))
    none = np.zeros(len(ids), bool)
    (reason,), rise = judge_pairs(Bank(), pairs, edges, [None], risk, none, policy)  # type: ignore[arg-type]
    maxima = {f"{n}_max": float(edges.over_images(v)[0]) for n, v in risk.scores.items()}
    score = {**QUALITY, **maxima, "exposure_delta": float(rise[0]), "ncii_reason": reason or ""}
    (row,) = acceptance(
        pairs,
        rows("captions", {"pair_id": "p", "status": "ok"}),
        rows("pair_scores", {"pair_id": "p", **score}),
        policy.thresholds,
    ).to_pylist()
    return bool(row["accept"])


def edited(policy: Policy, images: Sequence[Image], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether an edit with these inputs and this result, the last, is handed out."""
    coming = iter([image for image in images for _ in policy.classifiers])

    def fake(classifier: ImageClassifier, pictures: Sequence[Pixels]) -> Scores:
        image = next(coming)
        return {n: np.array([image.get(n, 0.0)], np.float32) for n in classifier.labels}

    monkeypatch.setattr(module, "score_images", fake)
    screening = EditScreening(policy, HashGate(), Written(), Chains(Path("/nowhere"), b"k", 1))
    monkeypatch.setattr(screening, "match_hashes", lambda *_: "pass")
    try:
        for _ in images[:-1]:
            screening.check_input(NOISE)
        screening.check_result(OTHER)
    except SafetyRefusal:
        return False
    return True


@many
@given(POLICIES, PAIRS, IMAGES)
def test_adding_an_image_never_makes_a_pair_safer(
    monkeypatch: pytest.MonkeyPatch, policy: Policy, images: list[Image], more: Image
) -> None:
    wider = [*images[:-1], more, images[-1]]
    assert accepted(policy, images) or not accepted(policy, wider)
    assert edited(policy, images, monkeypatch) or not edited(policy, wider, monkeypatch)


@st.composite
def tightened(draw: st.DrawFn) -> tuple[Policy, Policy]:
    """A policy, and one with a lower limit somewhere."""
    policy = draw(POLICIES)
    lower = draw(st.sampled_from([0.0, 0.3, 0.6, 0.95]))
    kinds = ("_max", "_unmatchable")
    limits = {n: v for n, v in policy.thresholds.items() if n.partition("@")[0].endswith(kinds)}
    limits.pop("ssim_max")
    fields = [*limits, *type(policy.ncii).model_fields, *(c.name for c in policy.combinations)]
    field = draw(st.sampled_from(sorted(fields)))
    if field in limits:
        change: dict[str, Any] = {"thresholds": {**policy.thresholds, field: limits[field] * lower}}
    elif field in type(policy.ncii).model_fields:
        own = policy.ncii.model_dump()
        change = {"ncii": policy.ncii.model_copy(update={field: own[field] * lower})}
    else:
        rules = {rule.name: rule for rule in policy.combinations}
        above = {name: limit * lower for name, limit in rules[field].above.items()}
        rules[field] = rules[field].model_copy(update={"above": above})
        change = {"combinations": tuple(rules.values())}
    return policy, policy.model_copy(update=change)


@many
@given(tightened(), PAIRS)
def test_tightening_a_limit_never_lets_more_through(
    monkeypatch: pytest.MonkeyPatch, policies: tuple[Policy, Policy], images: list[Image]
) -> None:
    loose, tight = policies
    assert accepted(loose, images) or not accepted(tight, images)
    assert edited(loose, images, monkeypatch) or not edited(tight, images, monkeypatch)


@many
@given(POLICIES, PAIRS, st.sampled_from(["local", "text", "style"]))
def test_no_edit_passes_that_would_be_refused_as_a_pair_of_any_category(
    monkeypatch: pytest.MonkeyPatch, policy: Policy, images: list[Image], category: str
) -> None:
    """One rule for both: an edit has no category, so it meets the limits of all."""
    assert not edited(policy, images, monkeypatch) or accepted(policy, images, category=category)


@pytest.mark.parametrize("value", NO_SCORES)
@settings(max_examples=8, deadline=None)
@given(POLICIES, PAIRS, st.data())
def test_no_score_outside_of_its_range_passes(
    value: float, policy: Policy, images: list[Image], data: st.DataObject
) -> None:
    """Of any label that the policy weighs, in any image, whatever all others are."""
    weighed = {*policy.exposure_weights, *(n for own in policy.risks.values() for n in own)}
    label = data.draw(st.sampled_from(sorted(weighed)))
    place = data.draw(st.integers(0, len(images) - 1))
    broken = [{**one, label: value} if n == place else one for n, one in enumerate(images)]
    with pytest.MonkeyPatch.context() as patched:
        assert not accepted(policy, broken)
        assert not edited(policy, broken, patched)


@many
@given(POLICIES, PAIRS, st.data())
def test_a_classifier_that_is_taken_away_lets_nothing_through(
    policy: Policy, images: list[Image], data: st.DataObject
) -> None:
    weighed = {*policy.exposure_weights, *(n for own in policy.risks.values() for n in own)}
    gone = data.draw(st.sampled_from(sorted(weighed)))
    if weighed == {gone}:  # there is no other
        with pytest.raises(GateError, match="no classifier"):
            accepted(policy, images, left_out=gone)
    else:
        assert not accepted(policy, images, left_out=gone)


@pytest.mark.parametrize("name", packaged_policies())
def test_a_policy_without_one_of_its_classifiers_is_none(name: str, tmp_path: Path) -> None:
    policy = load_policy(name)
    whole = f"classifiers: [{', '.join(policy.classifiers)}]"
    for gone in policy.classifiers:
        rest = [one for one in policy.classifiers if one != gone]
        path = tmp_path / "own.yaml"
        path.write_text(text_of(name).replace(whole, f"classifiers: [{', '.join(rest)}]"))
        with pytest.raises(RecipeError, match=r"classifier|open-nsfw"):
            load_policy(str(path))
