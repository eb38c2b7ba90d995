from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kontext.data.mine import attributes, references, singles
from kontext.data.mine.attributes import overlap, silhouette
from kontext.data.mine.candidate import Candidate, MinedImage
from schemas.sections.data import MineConfig
from tests.data.mine.chosen import chosen


def image(
    pixel_id: str, group: str = "g", source: str = "s", box: int = 8, **labels: str
) -> MinedImage:
    rgb = np.full((32, 32, 3), 255, np.uint8)
    rgb[16 - box : 16 + box, 16 - box : 16 + box] = 10
    return MinedImage(pixel_id, source, group, "thing", labels, "CC0-1.0", lambda _: rgb)


def mined(*images: MinedImage, **changes: object) -> list[Candidate]:
    return list(attributes.mine(images, MineConfig.model_validate(changes)))


def test_one_changed_attribute_makes_a_pair_in_both_directions() -> None:
    pairs = mined(image("a", hair_color="red"), image("b", hair_color="blue"))
    assert {(c.context_ids[0], c.target_id) for c in pairs} == {("a", "b"), ("b", "a")}
    assert {c.relation_class for c in pairs} == {"local"}
    forward = next(c for c in pairs if c.target_id == "b")
    assert forward.params["from"] == "red" and forward.params["to"] == "blue"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (image("a", x="1", y="1"), image("b", x="2", y="2")),  # two attributes
        (image("a", x="1"), image("b", x="1")),  # none
        (image("a", group="g", x="1"), image("b", group="h", x="2")),  # two groups
        (image("a", x="1"), image("b", x="2", y="1")),  # not the same labels
        (image("a", x="1", source="s"), image("b", x="2", source="t")),  # two sources
        (image("a", x="1"), image("a", x="2")),  # the same pixels
    ],
)
def test_anything_else_makes_no_pair(first: MinedImage, second: MinedImage) -> None:
    assert mined(first, second) == []


def test_style_crosses_sources_only_where_silhouettes_agree() -> None:
    flat = image("a", source="emoji:x", art_style="flat")
    same = image("b", source="emoji:y", art_style="3D", box=8)
    other = image("c", source="emoji:z", art_style="line", box=3)
    pairs = mined(flat, same, other)
    assert {c.target_id for c in pairs} == {"a", "b"}
    assert all(c.relation_class == "style" and c.params["silhouette_iou"] == 1.0 for c in pairs)
    assert len(mined(flat, same, other, style_overlap_min=0.05)) == 6


def test_silhouette_of_an_outline_is_filled() -> None:
    filled, outline = image("a").rgb, image("b").rgb.copy()
    outline[10:22, 10:22] = 255
    assert overlap(silhouette(filled), silhouette(outline)) == 1.0
    blank = np.full((8, 8, 3), 255, np.uint8)
    assert overlap(silhouette(blank), silhouette(blank)) == 0.0


def referring(*images: MinedImage) -> list[Candidate]:
    return list(references.mine(images, MineConfig()))


def test_a_reference_shows_the_wanted_value_on_another_subject() -> None:
    red, blue = image("a", hair_color="red"), image("b", hair_color="blue")
    other = image("c", group="h", hair_color="blue")
    (pair,) = referring(red, blue, other)
    assert (pair.context_ids, pair.target_id) == (("a", "c"), "b")
    assert pair.relation == "hair_color_by_reference" and pair.relation_class == "local"
    assert pair.params["reference"] == "thing" and pair.miner == "references"


@pytest.mark.parametrize(
    "other",
    [
        image("c", hair_color="blue"),  # the same subject
        image("c", group="h", hair_color="green"),  # not the wanted value
        image("c", group="h", hair_color="blue", source="t"),  # another source
    ],
)
def test_no_other_picture_serves_as_a_reference(other: MinedImage) -> None:
    pairs = referring(image("a", hair_color="red"), image("b", hair_color="blue"), other)
    assert all("c" not in pair.context_ids[1:] or pair.target_id == "c" for pair in pairs)
    assert not [p for p in pairs if p.target_id == "b" and p.context_ids[0] == "a"]


def test_words_and_nothing_are_not_shown_by_a_reference() -> None:
    signs = [image(f"{g}{v}", group=g, text=v) for g in "gh" for v in ("OPEN", "SHUT")]
    assert referring(*signs) == []
    faces = [image(f"{g}{v}", group=g, glasses=v) for g in "gh" for v in ("none", "round")]
    assert {pair.params["to"] for pair in referring(*faces)} == {"round"}


def test_any_other_group_may_lend_a_reference() -> None:
    images = [image(f"{g}-{v}", group=f"{g:02}", hat=v) for g in range(30) for v in "xyz"]
    pairs = referring(*images)
    assert len(pairs) == 30 * 6
    lent = {pair.context_ids[1].split("-")[0] for pair in pairs}
    assert len(lent) > 20
    for pair in pairs:
        assert pair.context_ids[1].split("-")[0] != pair.target_id.split("-")[0]
        assert pair.context_ids[1].endswith(str(pair.params["to"]))
    assert pairs == referring(*images)


def test_singles_have_no_context() -> None:
    (single,) = singles.mine([image("a", text="OK")], MineConfig())
    assert single.context_ids == () and single.relation_class == "t2i"
    assert single.params["label.text"] == "OK"


def candidates(relation: str, category: str, n: int) -> list[Candidate]:
    return [
        Candidate((f"x{i}",), f"{relation}{i}", category, relation, "m", "1", {}, "g", "s", "MIT")
        for i in range(n)
    ]


def test_skin_tone_is_capped_and_its_share_goes_to_others() -> None:
    pool = candidates("skin_tone", "local", 500) + candidates("hair_color", "local", 500)
    kept, _ = chosen(pool, MineConfig(pairs_per_category=200, skin_tone_share=0.15))
    assert Counter(row["relation"] for row in kept) == {"skin_tone": 30, "hair_color": 170}


def test_relations_share_a_category_evenly() -> None:
    pool = candidates("a", "global", 10) + candidates("b", "global", 300)
    kept, _ = chosen(pool, MineConfig(pairs_per_category=100))
    assert Counter(row["relation"] for row in kept) == {"a": 10, "b": 90}


@given(st.permutations(range(12)), st.integers(1, 12))
@settings(max_examples=25)
def test_selection_does_not_depend_on_order(order: list[int], quota: int) -> None:
    pool = candidates("a", "text", 12)
    config = MineConfig(pairs_per_category=quota)
    assert chosen([pool[i] for i in order], config) == chosen(pool, config)


def test_every_candidate_is_counted_once() -> None:
    pool = [
        Candidate((f"x{i}",), "same", "local", "a", "m", "1", {}, "g", "s", "MIT") for i in range(9)
    ]
    _, counts = chosen([*pool, pool[0]], MineConfig(pairs_per_category=3, pairs_per_image=5))
    outcomes = {key[2]: n for key, n in counts.items()}
    assert outcomes == {"duplicate": 1, "kept": 3, "quota": 2, "image_cap": 4}


def test_the_pair_id_covers_everything_that_makes_the_pair() -> None:
    base = Candidate(("x",), "y", "local", "a", "m", "1", {"to": "red"}, "g", "s", "MIT")
    same = Candidate(("x",), "y", "local", "a", "m", "2", {"to": "red"}, "g", "s", "MIT")
    other = Candidate(("x",), "y", "local", "a", "m", "1", {"to": "blue"}, "g", "s", "MIT")
    assert base.pair_id == same.pair_id != other.pair_id


def test_black_and_white_is_a_target_never_a_context() -> None:
    pairs = mined(
        image("a", source="x", art_style="flat"),
        image("b", source="y", art_style="black and white"),
    )
    assert [(c.context_ids, c.target_id) for c in pairs] == [(("a",), "b")]


def test_many_pictures_of_one_group_are_proposed_with_few_contexts_each() -> None:
    """All pairs of 1,500 pictures would be two million proposals; none of them is looked at."""
    looked = Counter[str]()

    class Watched(dict[str, str]):
        def __getitem__(self, name: str) -> str:
            looked[name] += 1
            return super().__getitem__(name)

    many = [
        replace(image(f"{n:05}"), attributes=Watched(shade=f"{n % 750}", size=f"{n // 750}"))
        for n in range(1500)
    ]
    found = list(attributes.mine(many, MineConfig(pairs_per_image=5)))
    by_target = Counter((c.target_id, c.relation) for c in found)
    assert set(by_target.values()) == {1, 5}  # one of another size, five of 749 other shades
    assert len(by_target) == 3000 and looked.total() < 100 * len(many)
