"""Chains of given pairs, on injected scores: the pictures are two of noise."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kontext.data.quality.pair_rule import judge_pairs, least_of_chains
from kontext.data.quality.pairs import Edges
from kontext.safety.policy import load_policy
from schemas.risks import risks
from tests.safety.test_properties import Bank, scored
from tests.store.lake_rows import rows

POLICY = load_policy("strict")
FACE = {"FACE_FEMALE": 0.9}
Pair = tuple[int, int, str]  # edited, target, row


def table(pairs: list[Pair], miner: str = "given") -> pa.Table:
    return rows(
        "pairs",
        *(
            {"pair_id": f"{n}", "miner": miner, "context_ids": [f"{a}"], "target_id": f"{b}",
             "relation_class": "local", "params": json.dumps({"row": row})}
            for n, (a, b, row) in enumerate(pairs)
        ),
    )  # fmt: skip


def judged(
    labels: list[dict[str, float]], pairs: list[Pair], miner: str = "given", refused: int = -1
) -> list[str | None]:
    ids = [f"{n}" for n in range(len(labels))]
    own, found = table(pairs, miner), scored(POLICY, labels)
    risk = POLICY.risk(found, risks(POLICY.classifiers))
    alone = np.arange(len(ids)) == refused
    bank: Any = Bank()
    text = [None] * len(pairs)
    reasons, _ = judge_pairs(bank, own, Edges.of(own, ids), text, risk, alone, POLICY)
    return reasons


def chest(*scores: float) -> list[dict[str, float]]:
    return [{**FACE, "FEMALE_BREAST_EXPOSED": score} for score in scores]


TURNS: list[Pair] = [(0, 1, "s/a:1"), (1, 2, "s/a:2"), (2, 3, "s/a:3")]


@pytest.mark.parametrize("order", [1, -1])
def test_a_rise_over_two_pairs_of_a_chain_is_refused(order: int) -> None:
    found = judged(chest(0, 0.39, 0.45), TURNS[:2][::order])[::order]
    assert found == [None, "ncii_chain"]
    assert judged(chest(0, 0.39, 0.45), TURNS[:2], miner="attributes") == [None, None]


def test_clothes_that_go_over_several_turns_and_a_turn_between() -> None:
    bare = [{**FACE, "BELLY_EXPOSED": score} for score in (0.0, 0.3, 0.3, 0.6)]
    assert judged(bare, TURNS) == [None, None, "ncii_chain"]


def test_what_follows_a_refused_turn_falls_with_it() -> None:
    assert judged(chest(0, 0.5, 0, 0), TURNS) == ["ncii_exposure", "related", "related"]
    assert judged(chest(0, 0, 0, 0), TURNS, refused=1) == [None, "related", "related"]
    apart: list[Pair] = [*TURNS, (0, 4, "s/b:1")]
    assert judged(chest(0, 0, 0, 0, 0), apart, refused=1)[3] is None


def test_the_way_back_does_not_take_the_original_with_it() -> None:
    pairs: list[Pair] = [(0, 1, "s/a:1"), (1, 0, "s/a:1:back"), (0, 2, "s/b:1")]
    assert judged(chest(0, 0, 0), pairs, refused=1) == [None, None, None]  # refused by itself
    # but a rise over two ways back is one
    back: list[Pair] = [(0, 1, "s/a:2:back"), (1, 2, "s/a:1:back")]
    assert judged(chest(0, 0.39, 0.45), back) == [None, "ncii_chain"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 0.2, 0.39, 0.45, 0.55]), min_size=5, max_size=5),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.just("s/a:1")), min_size=2),
)
def test_a_further_pair_never_makes_one_safer(scores: list[float], pairs: list[Pair]) -> None:
    fewer, more = (judged(chest(*scores), own) for own in (pairs[:-1], pairs))
    assert all(b for a, b in zip(fewer, more, strict=False) if a)


def test_the_floor_of_a_ring_and_of_a_long_chain() -> None:
    count = 300
    labels = chest(*(0.2 + 0.001 * n for n in range(count)))
    labels[0]["FEMALE_BREAST_EXPOSED"] = 0.1
    pairs = [(n, (n + 1) % count, "s/a:1") for n in range(count)]
    own = table(pairs)
    look = POLICY.risk(scored(POLICY, labels), risks(POLICY.classifiers)).look
    edges = Edges.of(own, [f"{n}" for n in range(count)])
    floor = least_of_chains(look, edges, np.ones(count, bool))
    assert np.allclose(floor.exposure, 0.1)
