"""Versions of one dataset: a picture keeps its split for ever, and nothing leaks between splits."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kontext.data.shards import select
from kontext.data.shards.select import Selected
from kontext.data.split import NOWHERE, assign, components
from schemas.tables import IMAGES
from tests.stages.stage_harness import rows_table

FRACTIONS = {"test_fraction": 0.06, "val_fraction": 0.03}
Edge = tuple[str, str]


@dataclass
class Version:
    """What one version of a dataset made of its pictures."""

    split_of: dict[Edge, str]  # of the pairs in shards
    splits: Any  # the table
    history: dict[str, str]  # pixel id -> split, for the next version
    dropped: Counter[str]


def version(
    groups: dict[str, str],
    edges: Collection[Edge],
    before: dict[str, str] | None = None,
    seed: int = 0,
) -> Version:
    """As the stage shard makes one, of pictures (id -> group) that are no near-duplicates."""
    images = [{"pixel_id": i, "group_key": group, "source": "s"} for i, group in groups.items()]
    place = {name: row for row, name in enumerate(groups)}
    pairs = {
        "pair_id": pa.array([f"{a}-{b}" for a, b in sorted(edges)], pa.string()),
        "relation_class": pa.array(["local"] * len(edges), pa.string()),
        "contexts": pa.array([[place[a]] for a, _ in sorted(edges)], pa.list_(pa.int32())),
        "target": pa.array([place[b] for _, b in sorted(edges)], pa.int32()),
    }
    before = before or {}
    pictures, selected = rows_table(IMAGES, images), Selected(pa.table(pairs), Counter())
    ties = select.ties(selected)
    found = components(pictures, ties, lambda _: None, near_bits=0, near_l1=0.0, before=before)
    selected = select.drop_divided_pairs(selected, found)
    counts = select.class_counts(selected, found)
    splits = assign(counts, **FRACTIONS, seed=seed, kept=found.kept)
    table = select.splits_table(selected, found, splits)
    known = select.picture_splits(found, splits, before)
    of = dict(zip(table["pair_id"].to_pylist(), table["split"].to_pylist(), strict=True))
    return Version(
        {(a, b): of[f"{a}-{b}"] for a, b in edges if f"{a}-{b}" in of},
        table,
        dict(zip(*known.to_pydict().values(), strict=True)),
        selected.dropped,
    )


PICTURES = [f"x{number:02d}" for number in range(40)]
worlds = st.fixed_dictionaries(
    {
        "groups": st.lists(st.integers(0, 14), min_size=40, max_size=40),
        "edges": st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), max_size=30),
        "sizes": st.lists(st.integers(1, 40), min_size=2, max_size=4).map(sorted),
        "seed": st.integers(0, 9),
    }
)


def grow(world: dict[str, Any]) -> tuple[list[Version], dict[str, str], list[Edge]]:
    """Versions with more and more pictures; all pairs of a group, and some between groups."""
    groups = {i: f"g{number:02d}" for i, number in zip(PICTURES, world["groups"], strict=True)}
    pairs = {(PICTURES[a], PICTURES[b]) for a, b in world["edges"] if a < b}
    pairs |= {(a, b) for a in PICTURES for b in PICTURES if a < b and groups[a] == groups[b]}
    made: list[Version] = []
    for size in world["sizes"]:
        here = {i: groups[i] for i in PICTURES[:size]}
        edges = [pair for pair in pairs if set(pair) <= set(here)]
        made.append(version(here, edges, made[-1].history if made else {}, world["seed"]))
    return made, groups, sorted(pairs)


@settings(max_examples=80, deadline=None)
@given(worlds)
def test_adding_pictures_moves_none_and_takes_no_pair_away(world: dict[str, Any]) -> None:
    made, _, _ = grow(world)
    for earlier, later in pairwise(made):
        assert earlier.split_of.items() <= later.split_of.items()
        assert earlier.history.items() <= later.history.items()


@settings(max_examples=80, deadline=None)
@given(worlds)
def test_what_is_connected_is_never_in_two_splits(world: dict[str, Any]) -> None:
    """A pair that only connects later is dropped; so are new pictures between two splits."""
    made, _, pairs = grow(world)
    for found in made:
        of: dict[str, set[str]] = {}
        for pair, split in found.split_of.items():
            for picture in pair:
                of.setdefault(picture, set()).add(split)
        assert all(len(splits) == 1 for splits in of.values())
        table = found.splits.to_pylist()
        assert len({row["component_id"] for row in table}) == len(
            {(row["component_id"], row["split"]) for row in table}
        )
    first, last = made[0].history, made[-1].history
    new = set(last) - set(first)
    touching = [pair for pair in pairs if set(pair) & new and len(made) == 2]
    assert all(last[a] == last[b] for a, b in touching if a in last and b in last)


@settings(max_examples=80, deadline=None)
@given(worlds)
def test_a_version_made_again_on_top_of_itself_is_the_same(world: dict[str, Any]) -> None:
    made, groups, pairs = grow(world)
    here = {i: groups[i] for i in PICTURES[: world["sizes"][-1]]}
    edges = [pair for pair in pairs if set(pair) <= set(here)]
    again = version(here, edges, made[-1].history, world["seed"])
    assert again.splits.equals(made[-1].splits) and again.history == made[-1].history


@settings(max_examples=80, deadline=None)
@given(worlds)
def test_two_thirds_of_the_pairs_stay_in_train(world: dict[str, Any]) -> None:
    """Of a first version: what has been held out once may grow."""
    counts = Counter(grow(world)[0][0].split_of.values())
    assert 3 * counts["train"] >= 2 * counts.total()


@pytest.mark.parametrize("seed", range(20))
def test_a_small_set_keeps_two_thirds_in_train_and_holds_something_out(seed: int) -> None:
    sizes = (4, 4, 4, 5, 5, 6, 6, 9)  # 43 pairs in 8 groups
    groups = {f"g{g}-{i}": f"g{g}" for g, n in enumerate(sizes) for i in range(n + 1)}
    edges = [(f"g{g}-0", f"g{g}-{i}") for g, n in enumerate(sizes) for i in range(1, n + 1)]
    counts = Counter(version(groups, edges, seed=seed).split_of.values())
    assert counts["train"] >= 29 and counts["test"] > 0 and counts["val"] > 0


@pytest.mark.parametrize("seed", range(5))
def test_the_shares_of_a_large_set_are_as_asked_also_when_it_grows(seed: int) -> None:
    history: dict[str, str] = {}
    for size in (500, 2000, 4000):
        groups = {f"{g}-{i}": f"g{g}" for g in range(size) for i in range(4)}
        edges = [(f"{g}-0", f"{g}-{i}") for g in range(size) for i in (1, 2, 3)]
        found = version(groups, edges, history, seed)
        history = found.history
    counts = Counter(found.split_of.values())
    assert abs(counts["test"] / counts.total() - 0.06) < 0.015
    assert abs(counts["val"] / counts.total() - 0.03) < 0.01


def test_a_new_picture_between_two_splits_is_left_out_with_its_pairs_alone() -> None:
    groups = {"a0": "a", "a1": "a", "b0": "b", "b1": "b"}
    edges = [("a0", "a1"), ("b0", "b1")]
    before = {"a0": "train", "a1": "train", "b0": "test", "b1": "test"}
    bridge = {"c0": "c", "c1": "c", "d0": "d", "d1": "d"}
    joining = [("c0", "a0"), ("c0", "b0"), ("d0", "d1"), ("d0", "b1")]
    found = version({**groups, **bridge}, [*edges, *joining], before)
    assert found.split_of == {
        ("a0", "a1"): "train", ("b0", "b1"): "test", ("d0", "d1"): "test", ("d0", "b1"): "test",
    }  # fmt: skip
    assert found.dropped == {"between_splits_of_earlier_versions": 2}
    assert "c0" not in found.history and found.history["d1"] == "test"


def test_pictures_that_come_back_or_change_their_group_keep_their_splits() -> None:
    edges = [("a0", "a1"), ("b0", "b1"), ("a0", "b0")]
    before = {"a0": "train", "a1": "train", "b0": "test", "b1": "test"}
    without = version({"c0": "c", "c1": "c"}, [("c0", "c1")], before)
    assert without.history.items() >= before.items()
    one = dict.fromkeys(("a0", "a1", "b0", "b1", "new"), "one group")
    found = version(one, [*edges, ("a0", "new")], without.history)
    assert found.split_of == {("a0", "a1"): "train", ("b0", "b1"): "test"}
    assert found.dropped == {"between_splits_of_earlier_versions": 2}


def test_pictures_on_which_two_versions_disagree_are_in_no_split() -> None:
    groups = {"a0": "a", "a1": "a", "b0": "b", "b1": "b"}
    found = version(groups, [("a0", "a1"), ("b0", "b1")], {"a0": NOWHERE, "b0": "val"})
    assert found.split_of == {("b0", "b1"): "val"} and found.history["a0"] == NOWHERE
