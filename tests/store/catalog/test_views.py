import math
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kontext.errors import CatalogError
from kontext.store.catalog.views import acceptance, views
from tests.store.lake_rows import rows

LIMITS = {
    "nsfw_max": 0.5,
    "nudity_max": 0.4,
    "exposure_delta_max": 0.3,
    "l1_min": 0.02,
    "changed_frac_min": 0.01,
    "largest_blob_min": 0.002,
    "misalignment_max": 0.05,
    "sharpness_min": -2,
    "ssim_max": 0.98,
    "pdq_distance_min": 10,
    "clip_t_min": 0.1,
    "clip_dir_min": 0.0,
}
GOOD: dict[str, Any] = {
    "nsfw_max": 0.1,
    "nudity_max": 0.1,
    "exposure_delta": 0.0,
    "l1": 0.2,
    "changed_frac": 0.3,
    "largest_blob": 0.2,
    "misalignment": 0.01,
    "sharpness": -0.5,
    "change_kept": 1.0,
    "ssim": 0.5,
    "pdq_distance": 90,
    "clip_t": 0.3,
    "clip_dir": 0.2,
}


def judge(
    scores: dict[str, Any],
    limits: dict[str, float] = LIMITS,
    relation_class: str = "local",
    caption: dict[str, Any] | None = None,
    judgement: dict[str, Any] | None = None,
) -> list[str]:
    found = acceptance(
        rows("pairs", {"pair_id": "p", "relation_class": relation_class}),
        rows("captions", {"pair_id": "p", "status": "ok", **(caption or {})}),
        rows("pair_scores", {"pair_id": "p", **scores}),
        limits,
        judgement and rows("judgements", {"pair_id": "p", "status": "ok", **judgement}),
    ).to_pylist()
    assert len(found) == 1 and found[0]["accept"] == (found[0]["reject_reasons"] == [])
    return list(found[0]["reject_reasons"])


def test_a_good_pair_passes_at_the_limits_too() -> None:
    assert judge(GOOD) == []
    # scores are 32-bit floats: 0.02 the score must not be below 0.02 the limit
    edge = {"nsfw_max": 0.5, "nudity_max": 0.4, "exposure_delta": 0.3, "l1": 0.02}
    edge |= {"changed_frac": 0.01, "ssim": 0.98, "pdq_distance": 10, "clip_t": 0.1, "clip_dir": 0}
    edge |= {"change_kept": 0.95, "largest_blob": 0.002, "misalignment": 0.05, "sharpness": -2}
    assert judge(edge) == []


def test_what_has_no_alignment_is_not_judged_by_it() -> None:
    assert judge({**GOOD, "misalignment": None, "sharpness": None}) == []
    own = {**LIMITS, "misalignment_max@character": 1}
    assert judge({**GOOD, "misalignment": 0.3}, own, "character") == []
    assert judge({**GOOD, "misalignment": 0.3}, own) == ["misalignment_max"]


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("nsfw_max", 0.6, "nsfw_max"),
        ("nudity_max", 0.6, "nudity_max"),
        ("exposure_delta", 0.6, "exposure_delta_max"),
        ("l1", 0.01, "l1_min"),
        ("changed_frac", 0.0, "changed_frac_min"),
        ("change_kept", 0.94, "edit_cropped"),
        ("largest_blob", 0.001, "largest_blob_min"),
        ("misalignment", 0.06, "misalignment_max"),
        ("sharpness", -2.1, "sharpness_min"),
        ("ssim", 0.99, "ssim_max"),
        ("pdq_distance", 9, "pdq_distance_min"),
        ("clip_t", 0.05, "clip_t_min"),
        ("clip_dir", -0.1, "clip_dir_min"),
        ("text_reason", "rule-3", "text:rule-3"),
        ("ncii_reason", "ncii_transform", "ncii:ncii_transform"),
    ],
)
def test_every_rule_rejects_alone(column: str, value: Any, reason: str) -> None:
    assert judge({**GOOD, column: value}) == [reason]
    if column not in ("pdq_distance", "text_reason", "ncii_reason"):
        assert judge({**GOOD, column: math.nan}) == [reason]


@pytest.mark.parametrize("status", ["refused", "malformed", "empty"])
def test_captions_must_be_ok(status: str) -> None:
    assert judge(GOOD, caption={"status": status}) == [f"caption_{status}"]
    assert judge(GOOD, caption={"pair_id": "other"}) == ["caption_missing"]


def test_singles_skip_the_pair_rules_but_not_the_safety_rules() -> None:
    unlike = {"l1": 0.0, "changed_frac": 0, "ssim": 1, "pdq_distance": 0, "clip_dir": -1}
    assert judge({**GOOD, **unlike}, relation_class="t2i") == []
    assert judge({**GOOD, "nsfw_max": 0.9}, relation_class="t2i") == ["nsfw_max"]


@pytest.mark.parametrize("value", [float("nan"), -1, -0.01, float("-inf"), float("inf"), 1.01])
def test_no_score_outside_its_range_passes(value: float) -> None:
    """NaN is the largest number to DuckDB, and the others are below every limit."""
    for name, reason in (
        *((name, name) for name in ("nsfw_max", "nudity_max")),
        ("l1", "l1_min"),
        ("changed_frac", "changed_frac_min"),
        ("change_kept", "edit_cropped"),
    ):
        assert judge({**GOOD, name: value}) == [reason]
    if not -1 <= value <= 1:
        assert judge({**GOOD, "exposure_delta": value}) == ["exposure_delta_max"]
    if not abs(value) < 2:
        for name, reason in (
            ("clip_t", "clip_t_min"),
            ("clip_dir", "clip_dir_min"),
            ("ssim", "ssim_max"),
        ):
            assert judge({**GOOD, name: value}) == [reason]


@pytest.mark.parametrize("limit", [float("nan"), 30, float("inf")])
def test_a_limit_that_limits_nothing_lets_nothing_through(limit: float) -> None:
    """`load_policy` refuses such a policy; whoever writes the table by hand is refused here."""
    for name in ("nsfw_max", "nudity_max", "exposure_delta_max"):
        assert judge(GOOD, {**LIMITS, name: limit}) == [name]
    without = {name: value for name, value in LIMITS.items() if name != "nsfw_max"}
    assert judge(GOOD, without) == ["nsfw_max"] and judge({**GOOD, "nsfw_max": 0}, without) == []


def test_a_limit_for_one_class_overrides_the_general_one() -> None:
    limits = {**LIMITS, "l1_min@style": 0.3, "nsfw_max@text": 0.05}
    assert judge(GOOD, limits, "local") == []
    assert judge(GOOD, limits, "style") == ["l1_min"]
    assert judge(GOOD, limits, "text") == ["nsfw_max"]
    assert judge({**GOOD, "l1": 0.01}, {**LIMITS, "l1_min@local": 0.0}) == []


def test_pairs_the_hash_gate_cannot_match_meet_the_stricter_limit() -> None:
    limits = {**LIMITS, "nsfw_max_unmatchable": 0.05, "nudity_max_unmatchable": 0.9}
    assert judge({**GOOD, "unmatchable": False}, limits) == []
    assert judge({**GOOD, "unmatchable": True}, limits) == ["nsfw_max"]
    assert judge({**GOOD, "unmatchable": True, "nudity_max": 0.6}, limits) == (
        ["nsfw_max", "nudity_max"]  # never looser than the general limit
    )


def test_what_is_not_known_is_not_accepted() -> None:
    assert judge({**GOOD, "pair_id": "other"}) == ["not_scored"]
    assert judge(GOOD, {}) == ["no_policy"]
    with pytest.raises(CatalogError, match="'nsfw_maximum'"):
        judge(GOOD, {"nsfw_maximum": 0.5})


def test_a_risk_that_was_never_scored_rejects_where_the_policy_limits_it() -> None:
    """A column added to an older dataset is null in all its rows."""
    unscored = {**GOOD, "nudity_max": None}
    assert judge(unscored) == ["nudity_max"]
    limits = {name: limit for name, limit in LIMITS.items() if name != "nudity_max"}
    assert judge(unscored, limits) == []
    pairs = rows("pairs", {"pair_id": "p", "relation_class": "local"})
    captions = rows("captions", {"pair_id": "p", "status": "ok"})
    table = rows("pair_scores", {"pair_id": "p", **GOOD}).drop_columns(["nudity_max"])
    verdicts = [acceptance(pairs, captions, table, each) for each in (LIMITS, limits)]
    assert [each["reject_reasons"].to_pylist() for each in verdicts] == [[["nudity_max"]], [[]]]


def test_one_row_per_pair_in_order() -> None:
    pairs = rows("pairs", *({"pair_id": p, "relation_class": "local"} for p in "cab"))
    found = acceptance(pairs, rows("captions"), rows("pair_scores"), LIMITS)
    assert found["pair_id"].to_pylist() == ["a", "b", "c"]
    assert found.schema.field("reject_reasons").type == pa.list_(pa.string())
    assert acceptance(rows("pairs"), rows("captions"), rows("pair_scores"), {}).num_rows == 0


@settings(max_examples=5)
@given(st.lists(st.floats(0, 1, width=32), max_size=30), st.floats(0, 1, width=32))
def test_limits_compare_as_numbers(scores: list[float], limit: float) -> None:
    ids = [f"p{i:02d}" for i in range(len(scores))]
    pairs = rows("pairs", *({"pair_id": p, "relation_class": "local"} for p in ids))
    captions = rows("captions", *({"pair_id": p, "status": "ok"} for p in ids))
    given_scores = (
        {"pair_id": p, "nsfw_max": s, "l1": s, "change_kept": 1.0}
        for p, s in zip(ids, scores, strict=True)
    )
    table = rows("pair_scores", *given_scores)
    high = acceptance(pairs, captions, table, {"nsfw_max": limit})["accept"].to_pylist()
    low = acceptance(pairs, captions, table, {"l1_min": limit, "nsfw_max": 1})["accept"].to_pylist()
    assert high == [score <= limit for score in scores]
    assert low == [score >= limit for score in scores]


def test_every_view_says_what_it_is() -> None:
    assert next(view.name for view in views()) == "acceptance"
    assert all(len(view.comment) > 20 and "--" not in view.comment for view in views())


JUDGED = {"follow": 4.0, "preserve": 5.0, "quality": 5.0, "shuffled_gap": 3.0, "swapped_gap": 2.0}


def test_a_judges_scores_have_limits_where_a_policy_sets_them() -> None:
    wanted = {**LIMITS, "judge_follow_min": 4.0, "judge_shuffled_gap_min": 2.0}
    assert judge(GOOD, wanted, judgement=JUDGED) == []
    assert judge(GOOD, wanted, judgement={**JUDGED, "follow": 3.0}) == ["judge_follow_min"]
    low = {**JUDGED, "shuffled_gap": 1.0, "preserve": 1.0}
    assert judge(GOOD, wanted, judgement=low) == ["judge_shuffled_gap_min"]
    assert judge(GOOD, {**wanted, "judge_preserve_min@local": 2.0}, judgement=low) == [
        "judge_preserve_min",
        "judge_shuffled_gap_min",
    ]
    assert judge(GOOD, judgement={**JUDGED, "follow": 1.0}) == [], "no limit, no reason"


def test_what_a_judge_was_asked_in_vain_is_never_accepted() -> None:
    wanted = {**LIMITS, "judge_follow_min": 4.0}
    for status in ("malformed", "refused", "budget", "no_control"):
        failed = {**dict.fromkeys(JUDGED), "status": status}
        for limits in (LIMITS, wanted):
            assert judge(GOOD, limits, judgement=failed) == [f"judge_{status}"]
    assert judge(GOOD, wanted) == ["judge_follow_min"], "a limit, and nobody was asked"
    assert judge(GOOD, wanted, judgement={**JUDGED, "follow": None}) == ["judge_follow_min"]
    single = {**GOOD, "ssim": 0, "l1": 1, "changed_frac": 1, "pdq_distance": 256, "clip_dir": 0}
    assert judge(single, wanted, relation_class="t2i") == [], "there is no edit to judge"
    refused = {"status": "refused"}
    assert judge(GOOD, wanted, caption=refused) == ["caption_refused"]
