"""Risks are those of all that is read of a picture, and no crop makes a pair look safer."""

from typing import Any

import numpy as np
import pyarrow as pa

from kontext.data.quality.pair_rule import judge_pairs
from kontext.data.quality.pairs import Edges
from kontext.safety.image_risk import image_risk
from kontext.safety.policy import load_policy
from schemas.tables import IMAGE_SCORES, PAIRS
from tests.safety.test_properties import Bank
from tests.stages.stage_harness import rows_table

POLICY = load_policy("strict")
(LABEL,) = [label for label, weight in POLICY.exposure_weights.items() if weight == 1][:1]
LABELS = {"nsfw", *POLICY.exposure_weights, *POLICY.person_labels}
LABELS.update(*POLICY.risks.values(), POLICY.face_labels)
for part in POLICY.parts.values():
    LABELS.update(part.cover, [part.bare])


def rise(context: list[float], target: list[float]) -> tuple[float, list[float]]:
    """How far exposure rises by the scores of the forms of each; and each one's exposure."""
    rows = [
        {"pixel_id": name, "classifier": "c", "label": label, "score": max(forms), "forms": forms}
        for name, own in (("context", context), ("target", target))
        for label in sorted(LABELS)
        for forms in [own if label == LABEL else [0.0] * len(own)]
    ]
    ids = ["context", "target"]
    risk = image_risk(pa.Table.from_pylist(rows, IMAGE_SCORES), ids, POLICY, POLICY.risks)
    pair = {"pair_id": "p", "context_ids": ["context"], "target_id": "target"}
    bank: Any = Bank()
    pairs = rows_table(PAIRS, [pair])
    edges, alone = Edges.of(pairs, ids), np.zeros(2, bool)
    _, (found,) = judge_pairs(bank, pairs, edges, [None], risk, alone, POLICY)
    return float(found), risk.exposure.round(3).tolist()


def test_the_largest_form_is_what_an_image_is_judged_by() -> None:
    assert rise([0.1, 0.6], [0.3])[1] == [np.float32(0.6).round(3), np.float32(0.3).round(3)]


def test_what_a_crop_leaves_out_of_the_context_hides_no_rise() -> None:
    """Whole, both are alike; what training reads of them goes from nothing to 0.6."""
    assert np.isclose(rise([0.6, 0.0], [0.6, 0.6])[0], 0.6)
    assert np.isclose(rise([0.0, 0.6], [0.6, 0.6])[0], 0.6)
    assert np.isclose(rise([0.0, 0.6, 0.1], [0.0, 0.2, 0.6])[0], 0.5)  # two sizes


def test_a_pair_of_which_nothing_changes_does_not_rise() -> None:
    assert rise([0.6, 0.1], [0.6, 0.1])[0] == rise([0.3], [0.3])[0] == 0


def test_a_form_without_a_score_is_no_score() -> None:
    assert np.isnan(rise([0.1, 0.2], [0.1, float("nan")])[0])
