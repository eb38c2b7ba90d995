from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from kontext.data.shards.read import PairRow
from kontext.errors import ArtifactError
from kontext.evaluate.benches import held_out
from kontext.evaluate.benches.held_out import BenchCandidate, Item, asked, build
from kontext.evaluate.categories import RECOLOURINGS
from kontext.evaluate.references import other_targets
from schemas.sections.evaluation import EvaluateConfig


def candidates(
    n: int, cluster: str, category: str = "local", start: int = 0, target: int = 1
) -> list[BenchCandidate]:
    return [
        BenchCandidate(
            Item(f"{start + i:064x}", category, "r", "a=b", "do", "t", "c", "s", cluster),
            (0,),
            target,
        )
        for i in range(n)
    ]


IMAGES = np.stack([np.full((8, 8, 3), v, np.uint8) for v in (0, 200, 0)])


def config(n: int, seed: int = 0) -> EvaluateConfig:
    return EvaluateConfig(items_per_category=n, seed=seed)


def test_choice_is_the_same_whatever_the_input_order() -> None:
    found = candidates(20, "a") + candidates(20, "b", start=100)
    first = build(found, IMAGES.__getitem__, config(8))
    again = build(found[::-1], IMAGES.__getitem__, config(8))
    other = build(found, IMAGES.__getitem__, config(8, seed=1))
    assert [i.pair_id for i in first.items] == [i.pair_id for i in again.items]
    assert [i.pair_id for i in first.items] != [i.pair_id for i in other.items]


def test_clusters_take_turns() -> None:
    found = candidates(50, "big") + candidates(3, "small", start=100)
    bench = build(found, IMAGES.__getitem__, config(6))
    assert Counter(item.cluster for item in bench.items) == {"small": 3, "big": 3}


def asking(values: str, cluster: str) -> list[BenchCandidate]:
    plain = candidates(len(values), cluster, start=ord(cluster) * 1000)
    return [
        replace(one, item=replace(one.item, asked=f"hat={value}"))
        for one, value in zip(plain, values, strict=True)
    ]


def test_what_is_asked_for_takes_turns_within_the_clusters() -> None:
    found = [one for cluster in "abcdefgh" for one in asking("xxxxxxxxyz", cluster)]
    bench = build(found, IMAGES.__getitem__, config(24))
    came = Counter(item.asked for item in bench.items)
    assert set(came) == {"hat=x", "hat=y", "hat=z"}  # x stands in eight of ten candidates
    assert max(came.values()) - min(came.values()) <= 2
    assert set(Counter(item.cluster for item in bench.items).values()) == {3}
    rare = build([*asking("xxxx", "a"), *asking("xy", "b")], IMAGES.__getitem__, config(5))
    assert Counter(item.asked for item in rare.items)["hat=y"] == 1 and len(rare) == 5


def test_unchanged_pairs_are_excluded_and_counted() -> None:
    found = candidates(4, "a") + candidates(2, "b", start=50, target=2)
    bench = build(found, IMAGES.__getitem__, config(6))
    assert len(bench) == 4 and bench.excluded == {"local": 2} and bench.available == {"local": 6}
    assert bench.mask.any(axis=(1, 2)).all()


def test_categories_keep_the_benchmark_order() -> None:
    found = candidates(4, "a", "text") + candidates(4, "b", "local", start=10)
    bench = build(found, IMAGES.__getitem__, config(4))
    assert bench.categories == ["local", "text"]
    assert [bench.items[i].category for i in bench.where("text")] == ["text"] * 4


def test_nothing_to_score_is_one_clear_error() -> None:
    with pytest.raises(ArtifactError, match="no edit with a visible change"):
        build(candidates(3, "a", target=2), IMAGES.__getitem__, config(4))


def test_random_reference_never_takes_an_item_of_the_same_cluster() -> None:
    images = np.stack([np.full((8, 8, 3), v, np.uint8) for v in (0, 60, 120, 180, 240)])
    found = [
        BenchCandidate(
            Item(f"{i:064x}", "local", "r", "a=b", "d", "t", "c", "s", f"k{i % 2}"), (0,), i
        )
        for i in range(1, 5)
    ]
    bench = build(found, images.__getitem__, config(4))
    others = other_targets(bench, seed=0)
    cluster_of = {
        int(t[0, 0, 0]): i.cluster for t, i in zip(bench.target, bench.items, strict=True)
    }
    for item, other in zip(bench.items, others, strict=True):
        assert cluster_of[int(other[0, 0, 0])] != item.cluster


def test_other_choices_of_an_item_are_its_rivals() -> None:
    images = np.stack([np.full((8, 8, 3), v, np.uint8) for v in (0, 200, 100, 202)])
    item = Item("a" * 64, "local", "r", "a=b", "do", "t", "c", "s", "k")
    one = BenchCandidate(item, (0,), 1, (2, 1, 3))
    alone = BenchCandidate(replace(item, pair_id="b" * 64), (0,), 2, (2,))
    bench = build([one, alone], lambda rows: images[list(rows)], config(4))
    places = {item.pair_id[0]: i for i, item in enumerate(bench.items)}
    assert set(bench.rivals) == {places["a"]}
    assert bench.rivals[places["a"]][:, 0, 0, 0].tolist() == [100]  # 202 is 200 to the eye


def test_what_is_asked_is_the_label_whatever_the_words() -> None:
    words = dict.fromkeys(PairRow.__dataclass_fields__, "") | {"contexts": (0,), "target": 1}
    labelled = PairRow(**{**words, "params": {"attribute": "hair", "to": "red", "from": "no"}})
    assert asked(labelled) == "hair=red"
    assert asked(PairRow(**{**words, "params": {}, "instruction": "do it"})) == "do it"


def test_recolourings_are_scored_apart() -> None:
    words = dict.fromkeys(PairRow.__dataclass_fields__, "") | {"contexts": (0,), "target": 1}
    row = PairRow(**{**words, "params": {}, "relation_class": "local", "relation": "hair_color"})
    assert held_out._item(row, "k").category == "recolouring"
    assert held_out._item(replace(row, relation="glasses"), "k").category == "local"
    found = candidates(4, "a", "recolouring") + candidates(4, "b", "text", start=10)
    assert build(found, IMAGES.__getitem__, config(4)).categories == ["text", "recolouring"]


@pytest.mark.parametrize(
    ("relation", "to", "category"),
    [
        ("glasses", "no", "removal"),
        ("glasses", "nothing", "removal"),
        ("glasses", "round", "local"),
        ("text", "NO", "local"),  # a word
        ("color", "none", "recolouring"),
    ],
)
def test_what_takes_something_away_is_scored_apart(relation: str, to: str, category: str) -> None:
    words = dict.fromkeys(PairRow.__dataclass_fields__, "") | {"contexts": (0,), "target": 1}
    known = {"relation_class": "local", "relation": relation}
    row = PairRow(**{**words, **known, "params": {"attribute": relation, "to": to}})
    assert held_out._item(row, "k").category == category


def test_every_recolouring_is_a_relation_that_a_miner_knows() -> None:
    from kontext.data.mine.relations import RELATIONS

    assert set(RECOLOURINGS) <= {relation for relation, _ in RELATIONS.values()}
