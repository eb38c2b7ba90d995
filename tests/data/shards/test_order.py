import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kontext.data.shards.order import Samples, epoch_batches, epoch_order, samples
from kontext.errors import ArtifactError, RecipeError

BUCKETS = ((4, 16), (4, 16, 16), (4, 24, 24))


@st.composite
def many(draw: st.DrawFn, least: int = 1) -> Samples:
    count = draw(st.integers(least, 120))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return made(count, rng)


def made(count: int, rng: np.random.Generator) -> Samples:
    return samples(
        [hashlib.sha256(bytes(rng.bytes(8)) + bytes([n % 256])).hexdigest() for n in range(count)],
        [BUCKETS[n] for n in rng.integers(0, 3, count)],
    )


seeds = st.integers(0, 2**40)


@settings(max_examples=60, deadline=None)
@given(many(), seeds, st.integers(0, 5), st.integers(56, 400))
def test_an_epoch_has_every_sample_once_in_batches_of_one_bucket_within_the_budget(
    of: Samples, seed: int, epoch: int, budget: int
) -> None:
    batches = epoch_batches(of, epoch_order(of, seed, epoch), budget)
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
        [of.buckets[of.bucket[p]] for p in places],
    )
    one = [of.ids[r] for r in epoch_order(of, seed, epoch)]
    assert one == [other.ids[r] for r in epoch_order(other, seed, epoch)]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    of = made(100, np.random.default_rng(0))
    orders = [tuple(epoch_order(of, s, e)) for s in (0, 1) for e in (0, 1)]
    assert len(set(orders)) == 4
    # a shuffle, not a rotation: ranks of two epochs are unrelated
    ranks = np.argsort(np.array(orders), axis=1)
    assert abs(np.corrcoef(ranks[0], ranks[1])[0, 1]) < 0.35


def test_the_order_stays_the_one_it_was() -> None:
    of = samples([f"id{n}" for n in range(8)], [(1,)] * 8)
    assert epoch_order(of, 7, 2).tolist() == [6, 2, 7, 5, 0, 3, 1, 4]


def test_a_sample_over_the_budget_and_a_repeated_id_are_refused() -> None:
    of = samples(["a", "b"], [(4, 16), (4, 64)])
    with pytest.raises(RecipeError, match="4\\+64 tokens is over the budget of 32"):
        epoch_batches(of, epoch_order(of, 0, 0), 32)
    with pytest.raises(ArtifactError, match="1 sample ids"):
        samples(["a", "a"], [(1,), (1,)])
