"""The autoencoder and LADD on two ranks: the steps of one process but for the order of sums."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kontext.errors import RecipeError
from kontext.parallel.world import World
from kontext.train.loop.fit import Method
from tests.parallel.method_work import (
    FP32,
    codec,
    dmd2,
    everything,
    guided,
    ladd,
    measured,
    pictured,
    trained,
)
from tests.parallel.rank_processes import run_ranks


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return run_ranks(everything, 2)


# Shifting all logits alike changes no hinge: that direction's gradient is rounding alone, which
# Adam makes a step of. So logits are compared by their size, and what they lead to exactly.
LOGITS = {"adversarial", "student_loss", "real_logit", "fake_logit", "wrong_logit"}


def close(one: dict[str, Any], two: dict[str, Any], judges: str) -> None:
    for row, other in zip(one["history"], two["history"], strict=True):
        assert row.keys() == other.keys()
        for name, value in row.items():
            rel = 1e-5 if row["step"] == 0 else 1e-3  # from there on optimisers part a little
            near = {"abs": 0.01} if name in LOGITS else {"rel": rel, "abs": 1e-6}
            assert other[name] == pytest.approx(value, **near), name
    for name, tensor in one["weights"].items():
        atol = 0.02 if name.startswith(judges) else 1e-3
        torch.testing.assert_close(two["weights"][name], tensor, rtol=0, atol=atol, msg=name)


def test_two_ranks_train_the_autoencoder_of_one(ranks: list[dict[str, Any]]) -> None:
    alone = trained(codec(World()))
    assert {"perceptual", "adversarial", "critic"} <= set(alone["history"][-1])
    for found in ranks:
        close(alone, found["codec"], "critic")
        assert not any(found["codec"]["sharded"].values())
    for name, tensor in ranks[0]["codec"]["weights"].items():
        assert torch.equal(tensor, ranks[1]["codec"]["weights"][name]), name


def test_two_ranks_distil_the_student_of_one(ranks: list[dict[str, Any]]) -> None:
    alone = trained(ladd(World()))
    for found in ranks:
        close(alone, found["ladd"], "heads")
    assert ranks[0]["ladd"]["history"] == ranks[1]["ladd"]["history"]


def test_ladds_batch_in_parts_is_the_batch(ranks: list[dict[str, Any]]) -> None:
    """Negatives from other parts, R1 and second updates included, in one process and in two."""
    whole = trained(ladd(World()))
    close(whole, trained(ladd(World(), accumulate=3)), "heads")
    close(whole, trained(ladd(World(), accumulate=7)), "heads")
    for found in ranks:
        close(whole, found["accumulated"], "heads")


def test_two_ranks_match_the_distribution_of_one(ranks: list[dict[str, Any]]) -> None:
    """With the student's own earlier steps as input, in one process, in parts, and in two."""
    alone = trained(dmd2(World()))
    close(alone, trained(dmd2(World(), accumulate=3)), "heads")
    for found in ranks:
        close(alone, found["dmd2"], "heads")
        sharded = found["dmd2"]["sharded"]
        assert sharded == {"student": True, "fake": True, "heads": False, "teacher": True}
    assert ranks[0]["dmd2"]["history"] == ranks[1]["dmd2"]["history"]


@pytest.mark.parametrize(("name", "make"), [("guidance", guided), ("pictures", pictured)])
def test_two_ranks_train_on_what_follows_the_flow(
    ranks: list[dict[str, Any]], name: str, make: Callable[..., Method]
) -> None:
    alone = trained(make(World()))
    for found in ranks:
        close(alone, found[name], "nothing judges")
        assert found[name]["sharded"]["model"]


def test_the_teacher_is_sharded_beside_the_student(ranks: list[dict[str, Any]]) -> None:
    sharded = ranks[0]["ladd"]["sharded"]
    assert sharded == {"student": True, "teacher": True, "heads": False}
    before = ladd(World()).teacher.state_dict()
    for name, tensor in before.items():
        assert torch.equal(ranks[0]["ladd"]["weights"][f"teacher.{name}"], tensor)


def test_recomputed_activations_change_no_bit_of_ladd(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["recomputed"]["history"] == ranks[0]["ladd"]["history"]


def test_validation_on_the_way_is_the_same_on_two_ranks(ranks: list[dict[str, Any]]) -> None:
    alone = measured(World())
    assert [row["step"] for row in alone] == [2, 4, 6]
    assert "val_loss" in alone[0] and "val_loss/level_7" in alone[0]
    for one, two in zip(alone, ranks[0]["measured"], strict=True):
        # context_gain is a small difference of two losses
        assert two == pytest.approx(one, rel=1e-4, abs=1e-6)


def test_too_small_a_batch_for_the_ranks_is_refused(ranks: list[dict[str, Any]]) -> None:
    # LADD's least is two
    assert ranks[0]["refused"] == ["a batch of 1 is too small for 2 ranks"] * 3
    with pytest.raises(RecipeError, match=r"distill takes no parallel\.context"):
        ladd(World(), parallel=FP32.model_copy(update={"context": 2}))
