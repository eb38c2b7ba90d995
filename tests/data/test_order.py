from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kontext.data.order import Samples, epoch_batches, epoch_order, samples
from kontext.errors import ArtifactError, RecipeError

CATEGORIES = ("local", "style", "t2i")
BUCKETS = ((4, 16), (4, 16, 16), (4, 24, 24))


@st.composite
def many(draw: st.DrawFn, least: int = 1) -> Samples:
    count = draw(st.integers(least, 120))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return made(count, rng)


def made(count: int, rng: np.random.Generator) -> Samples:
    return samples(
        [hashlib.sha256(bytes(rng.bytes(8)) + bytes([n % 256])).hexdigest() for n in range(count)],
        [f"train-{n}" for n in rng.integers(0, 7, count)],
        [CATEGORIES[n] for n in rng.integers(0, 3, count)],
        [BUCKETS[n] for n in rng.integers(0, 3, count)],
    )


seeds = st.integers(0, 2**40)


@settings(max_examples=60, deadline=None)
@given(many(), seeds, st.integers(0, 5), st.integers(0, 9), st.integers(56, 400))
def test_an_epoch_has_every_sample_once_in_batches_of_one_bucket_within_the_budget(
    of: Samples, seed: int, epoch: int, window: int, budget: int
) -> None:
    batches = epoch_batches(of, epoch_order(of, seed, epoch, window=window), budget)
    rows = np.concatenate(batches)
    assert sorted(rows.tolist()) == list(range(len(of)))
    for batch in batches:
        (bucket,) = set(of.bucket[batch].tolist())
        assert len(batch) and len(batch) * sum(of.buckets[bucket]) <= budget
    short = [b for b in batches if (len(b) + 1) * sum(of.buckets[of.bucket[b[0]]]) <= budget]
    assert len(short) <= len(of.buckets), "only the last batch of a bucket may be smaller"


@settings(max_examples=40, deadline=None)
@given(many(least=2), seeds, st.integers(0, 4), st.randoms())
def test_the_order_is_of_ids_and_not_of_where_they_stand_in_the_index(
    of: Samples, seed: int, epoch: int, chance: object
) -> None:
    places = list(range(len(of)))
    chance.shuffle(places)  # type: ignore[attr-defined]
    other = samples(
        [of.ids[p] for p in places],
        [of.shards[of.shard[p]] for p in places],
        [of.categories[of.category[p]] for p in places],
        [of.buckets[of.bucket[p]] for p in places],
    )
    for window in (0, 2):
        one = [of.ids[r] for r in epoch_order(of, seed, epoch, window=window)]
        two = [other.ids[r] for r in epoch_order(other, seed, epoch, window=window)]
        assert one == two


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    of = made(100, np.random.default_rng(0))
    orders = [tuple(epoch_order(of, s, e)) for s in (0, 1) for e in (0, 1)]
    assert len(set(orders)) == 4
    # a shuffle, not a rotation: ranks of two epochs are unrelated
    ranks = np.argsort(np.array(orders), axis=1)
    assert abs(np.corrcoef(ranks[0], ranks[1])[0, 1]) < 0.35


def test_the_order_stays_the_one_it_was() -> None:
    of = samples([f"id{n}" for n in range(8)], ["s"] * 8, ["c"] * 8, [(1,)] * 8)
    assert epoch_order(of, 7, 2).tolist() == [6, 2, 7, 5, 0, 3, 1, 4]


@settings(max_examples=40, deadline=None)
@given(many(), seeds, st.integers(0, 3), st.integers(1, 4))
def test_a_window_is_all_of_an_epoch_that_must_be_at_hand(
    of: Samples, seed: int, epoch: int, window: int
) -> None:
    shards = of.shard[epoch_order(of, seed, epoch, window=window)].tolist()
    windows: list[set[int]] = [set()]
    for shard in shards:
        if shard not in windows[-1] and len(windows[-1]) == window:
            windows.append(set())
        windows[-1].add(shard)
    for one in range(len(windows)):
        for other in range(one):
            assert not windows[one] & windows[other], "a shard is needed in two windows"


@settings(max_examples=60, deadline=None)
@given(many(least=20), seeds, st.lists(st.integers(1, 9), min_size=3, max_size=3))
def test_weights_are_in_force_at_every_moment_and_passes_stay_whole(
    of: Samples, seed: int, numbers: list[int]
) -> None:
    present = Counter(of.categories[c] for c in of.category.tolist())
    weights = {n: float(w) for n, w in zip(CATEGORIES, numbers, strict=True) if present[n]}
    drawn = np.concatenate([epoch_order(of, seed, e, weights, window=3) for e in range(3)])
    assert len(drawn) == 3 * len(of)
    total = sum(weights.values())
    for name, weight in weights.items():
        number = list(of.categories).index(name)
        mine = of.category[drawn] == number
        told = np.cumsum(mine) - np.arange(1, len(drawn) + 1) * weight / total
        # a rounded count per epoch, and one sample of slack per category inside it
        assert np.abs(told).max() <= 3 + len(weights)
        rows = drawn[mine]
        for start in range(0, len(rows), present[name]):
            turn = rows[start : start + present[name]].tolist()
            assert len(set(turn)) == len(turn), "a sample came again before all others had come"


def test_a_category_without_weight_is_left_out() -> None:
    of = made(60, np.random.default_rng(1))
    order = epoch_order(of, 0, 0, {"local": 2, "style": 0})
    assert {of.categories[c] for c in of.category[order].tolist()} == {"local"}
    assert len(order) == 60


@pytest.mark.parametrize(
    ("weights", "told"),
    [({"none": 1.0}, "no samples"), ({"local": -1.0}, "negative"), ({"local": 0.0}, "zero")],
)
def test_weights_that_cannot_be_met_are_refused(weights: dict[str, float], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        epoch_order(made(60, np.random.default_rng(2)), 0, 0, weights)


def test_a_sample_over_the_budget_and_a_repeated_id_are_refused() -> None:
    of = samples(["a", "b"], ["s", "s"], ["c", "c"], [(4, 16), (4, 64)])
    with pytest.raises(RecipeError, match="4\\+64 tokens is over the budget of 32"):
        epoch_batches(of, epoch_order(of, 0, 0), 32)
    with pytest.raises(ArtifactError, match="1 sample ids"):
        samples(["a", "a"], ["s", "s"], ["c", "c"], [(1,), (1,)])
