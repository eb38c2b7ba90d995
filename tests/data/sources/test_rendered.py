import numpy as np
import pytest

from kontext.data.decode import decode_image
from kontext.data.sources import plan
from kontext.data.sources.base import SourceItem
from kontext.data.sources.dicebear import DiceBearSource
from kontext.data.sources.signs import SignSource
from kontext.errors import SourceError

SMALL = DiceBearSource(seeds=2, values_per_attribute=2)


def test_dicebear_changes_exactly_one_attribute_per_variant() -> None:
    items = plan(SMALL)
    assert items == plan(SMALL)
    groups: dict[str, list[SourceItem]] = {}
    for item in items:
        groups.setdefault(item.group_key, []).append(item)
    assert len(groups) == 2 * len(SMALL.styles)
    for base, *variants in groups.values():
        assert len(variants) >= 4
        for item in variants:
            changed = [k for k, v in item.attributes.items() if base.attributes[k] != v]
            assert len(changed) == 1


def test_dicebear_draws_what_the_label_says() -> None:
    (style,) = ("toon-head",)
    items = plan(DiceBearSource(styles=(style,), seeds=1, values_per_attribute=8))
    for item in items:
        color = {"white": "#ffffff", "navy": "#26355d", "gray": "#b9bec6"}.get(
            item.attributes["background_color"]
        )
        if color:
            rgb = decode_image(item.read(), resolution=64, background="#ffffff", svg=True).rgb
            expected = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
            assert rgb[1, 1].tolist() == pytest.approx(expected, abs=2)


def test_what_may_be_added_lies_alike_in_every_picture() -> None:
    """Else where it goes would depend on the seed, which no context shows."""
    drawn = [
        decode_image(item.read(), resolution=64, background="#ffffff", svg=True).rgb.astype(int)
        for item in plan(DiceBearSource(styles=("planets",), seeds=4, attributes=("ring",)))
    ]
    pairs = zip(drawn[::2], drawn[1::2], strict=True)
    rings = [abs(one - other).max(axis=2) > 24 for one, other in pairs]
    for ring in rings[1:]:
        assert (ring & rings[0]).sum() > 0.8 * min(ring.sum(), rings[0].sum())


def test_an_unlabelled_dicebear_style_is_refused() -> None:
    with pytest.raises(SourceError, match="has no labels"):
        plan(DiceBearSource(styles=("bottts",)))


def test_an_attribute_of_no_style_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(SourceError, match=r"'rings' in planets \(known: color, ring\)"):
        plan(DiceBearSource(styles=("planets",), attributes=("rings",)))
    plan(DiceBearSource(styles=("planets", "sprouts"), seeds=1, attributes=("ring",)))


def test_signs_of_one_scene_differ_only_on_the_board() -> None:
    items = plan(SignSource(scenes=2, words_per_scene=3))
    assert len(items) == 6 and len({item.attributes["text"] for item in items[:3]}) == 3
    first, second = (
        decode_image(item.read(), resolution=64, background="#ffffff").rgb.astype(int)
        for item in items[:2]
    )
    changed = abs(first - second).max(axis=2) > 8
    assert changed.any()
    assert not changed[:10].any() and not changed[48:].any()


def test_a_board_for_a_digit_stands_in_many_places() -> None:
    items = plan(SignSource(scenes=12, words=tuple("0123456789"), words_per_scene=2))
    first = [
        decode_image(item.read(), resolution=64, background="#ffffff").rgb.astype(int)
        for item in items
    ]
    places = set()
    for before, after in zip(first[::2], first[1::2], strict=True):
        changed = np.argwhere(abs(before - after).max(axis=2) > 24)
        assert len(changed) > 8
        places.add(tuple(changed.mean(axis=0).round().astype(int)))
    assert len(places) > 8


def test_an_item_without_bytes_or_over_the_limit_is_an_error(tmp_path: object) -> None:
    from pathlib import Path

    nothing = SourceItem("s", "r", "g", "c", "CC0-1.0", "a")
    with pytest.raises(SourceError, match="neither payload nor path"):
        nothing.read()
    path = Path(str(tmp_path)) / "big.png"
    path.write_bytes(b"x" * 10)
    with pytest.raises(SourceError, match="10 bytes, limit 5"):
        SourceItem("s", "r", "g", "c", "CC0-1.0", "a", path=path).read(limit=5)
