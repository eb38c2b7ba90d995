from collections import Counter

import numpy as np
import pdqhash
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kontext.data.pixels import pixel_id
from kontext.data.split import (
    Components,
    _smallest_members,
    assign,
    components,
    near_duplicates,
)
from schemas.tables import IMAGES
from tests.data.pictures import scene
from tests.stages.stage_harness import rows_table

Rgb = NDArray[np.uint8]


def images(*entries: tuple[Rgb, str, str, str]) -> tuple[pa.Table, dict[str, Rgb]]:
    """IMAGES from (pixels, group, source, concept), and the pixels by id."""
    rows, pixels = [], {}
    for rgb, group, source, concept in entries:
        vector, quality = pdqhash.compute(rgb)
        key = pixel_id(rgb)
        pixels[key] = rgb
        rows.append(
            {
                "pixel_id": key,
                "group_key": group,
                "source": source,
                "concept": concept,
                "pdq": np.packbits(vector.astype(bool)).tobytes(),
                "pdq_quality": int(quality),
            }
        )
    return rows_table(IMAGES, rows), pixels


def of(table: pa.Table, pixels: dict[str, Rgb], pairs: list[list[int]]) -> list[str]:
    """Component of every image, in order."""
    ids, ties = table["pixel_id"].to_pylist(), np.array(pairs, np.int64).reshape(-1, 2)
    found = components(table, ties, pixels.__getitem__, near_bits=10, near_l1=0.1)
    assert isinstance(found, Components)
    return [found.of_image[i] for i in ids]


def test_group_pair_and_stranger() -> None:
    table, pixels = images(
        (scene(0), "a", "s", "x"),
        (scene(1), "a", "s", "y"),
        (scene(2), "b", "s", "z"),
        (scene(3), "c", "s", "w"),
    )
    first, second, third, fourth = of(table, pixels, [])
    assert first == second and len({first, third, fourth}) == 3
    first, _, third, fourth = of(table, pixels, [[0, 2]])
    assert first == third != fourth


def test_one_concept_in_two_kinds_of_source_joins() -> None:
    table, pixels = images(
        (scene(0), "emoji:1f600", "emoji:noto", "Red House"),
        (scene(1), "folder:x", "folder:pics", "red  house"),
        (scene(2), "folder:y", "folder:pics", "green house"),
    )
    first, second, third = of(table, pixels, [])
    assert first == second != third


def test_a_class_of_things_is_not_a_concept() -> None:
    """Fifty characters called "person" must not become one component."""
    table, pixels = images(
        (scene(0), "dicebear:1", "dicebear:micah", "person"),
        (scene(1), "dicebear:2", "dicebear:micah", "person"),
        (scene(2), "emoji:person", "emoji:noto", "person"),
        (scene(3), "emoji:keycap:noto", "emoji:noto", "keycap"),
        (scene(4), "emoji:keycap:twemoji", "emoji:twemoji", "keycap"),
    )
    assert len(set(of(table, pixels, []))) == 5


def test_near_duplicates_join_and_flat_collisions_do_not() -> None:
    noisy = np.clip(scene(0).astype(int) + 2, 0, 255).astype(np.uint8)
    table, pixels = images(
        (scene(0), "a", "s", "x"), (noisy, "b", "s", "y"), (scene(5), "c", "s", "z")
    )
    first, second, third = of(table, pixels, [])
    assert first == second != third
    # the same hash with other pixels: PDQ alone would join these
    blank = pa.array([bytes(32)] * 3, pa.binary(32))
    table = table.set_column(IMAGES.get_field_index("pdq"), IMAGES.field("pdq"), blank)
    assert near_duplicates(table, pixels.__getitem__, 10, 0.1) == [(0, 1)]
    assert len(near_duplicates(table, pixels.__getitem__, 10, 1.0)) == 3


def test_low_quality_hashes_are_no_witness() -> None:
    flat = np.full((64, 64, 3), 200, np.uint8)
    table, pixels = images((flat, "a", "s", "x"), (flat - 1, "b", "s", "y"))
    assert table["pdq_quality"].to_pylist()[0] < 50
    assert near_duplicates(table, pixels.__getitem__, 31, 1.0) == []


def test_component_ids_do_not_depend_on_order() -> None:
    entries = [(scene(n), f"g{n // 2}", "s", str(n)) for n in range(6)]
    table, pixels = images(*entries)
    turned, _ = images(*entries[::-1])
    assert of(table, pixels, []) == of(turned, pixels, [])[::-1]


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=40))
def test_components_are_connectivity_named_by_their_smallest_member(
    edges: list[tuple[int, int]],
) -> None:
    label = list(range(20))  # the slow and obvious way
    for a, b in edges:
        label = [label[a] if x == label[b] else x for x in label]
    expected = [min(b for b in range(20) if label[b] == label[a]) for a in range(20)]
    assert _smallest_members(20, np.array(edges, np.int64).reshape(-1, 2)) == expected


# --- assignment ----------------------------------------------------------------------------------

CLASSES = ("local", "global", "text")
counts = st.dictionaries(st.sampled_from(CLASSES), st.integers(1, 30), min_size=1)
graphs = st.dictionaries(st.integers(0, 10**6).map(str), counts, min_size=1, max_size=60)


def pairs_in(graph: dict[str, dict[str, int]], splits: dict[str, str], split: str) -> Counter[str]:
    total: Counter[str] = Counter()
    for component, numbers in graph.items():
        if splits[component] == split:
            total.update(numbers)
    return total


@settings(max_examples=40)
@given(graphs, st.integers(0, 5))
def test_every_class_keeps_training_pairs(graph: dict[str, dict[str, int]], seed: int) -> None:
    splits = assign(graph, test_fraction=0.06, val_fraction=0.03, seed=seed)
    assert set(splits) == set(graph)
    present = {name for numbers in graph.values() for name in numbers}
    assert set(pairs_in(graph, splits, "train")) == present
    again = assign(dict(reversed(graph.items())), test_fraction=0.06, val_fraction=0.03, seed=seed)
    assert again == splits


def test_every_class_is_held_out_near_its_share() -> None:
    graph = {f"c{n}": {"local": 10, "t2i": 2} for n in range(200)}
    graph |= {f"t{n}": {"text": 40} for n in range(6)}
    splits = assign(graph, test_fraction=0.1, val_fraction=0.05, seed=0)
    test, val = pairs_in(graph, splits, "test"), pairs_in(graph, splits, "val")
    assert 100 <= test["local"] <= 320 and 50 <= val["local"] <= 200
    assert test["text"] >= 40 and val["text"] >= 40


def test_a_large_component_stays_in_train() -> None:
    for seed in range(30):
        graph = {"big": {"local": 900}, **{f"c{n}": {"local": 2} for n in range(50)}}
        splits = assign(graph, test_fraction=0.1, val_fraction=0.05, seed=seed)
        assert splits["big"] == "train"
        assert pairs_in(graph, splits, "test")["local"] > 0


def test_a_class_with_one_component_is_not_held_out() -> None:
    splits = assign({"only": {"style": 50}}, test_fraction=0.3, val_fraction=0.3, seed=1)
    assert splits == {"only": "train"}


def test_places_are_stable_when_data_arrive() -> None:
    graph = {f"c{n}": {"local": 5} for n in range(300)}
    before = assign(graph, test_fraction=0.1, val_fraction=0.05, seed=0)
    graph |= {f"new{n}": {"local": 5} for n in range(100)}
    after = assign(graph, test_fraction=0.1, val_fraction=0.05, seed=0)
    assert all(after[name] == split for name, split in before.items())
