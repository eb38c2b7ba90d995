import pytest

from kontext.data.caption.base import CaptionRequest, ImageFacts
from kontext.data.caption.relations import WORDINGS
from kontext.data.caption.templates import TemplateCaptioner
from kontext.data.mine.relations import relation_of
from kontext.data.sources import iconify, plan
from kontext.data.sources.emoji import EmojiSource
from kontext.data.sources.families import FAMILIES, differs_in_label_only, member

ALL = (*FAMILIES, "clock", "arrow")


@pytest.mark.parametrize(
    ("codes", "family", "attribute", "value"),
    [
        ("2764", "heart", "color", "red"),
        ("1fa75", "heart", "color", "light blue"),
        ("0037-20e3", "keycap", "text", "7"),
        ("1f192", "word button", "text", "COOL"),
        ("1f198", "red word button", "text", "SOS"),
        ("1f550", "clock face", "clock", "1:00"),
        ("1f55b", "clock face", "clock", "12:00"),
        ("1f55c", "clock face", "clock", "1:30"),
        ("1f567", "clock face", "clock", "12:30"),
        ("2196", "arrow", "direction", "up left"),
    ],
)
def test_code_points_name_family_and_value(
    codes: str, family: str, attribute: str, value: str
) -> None:
    found = member(codes, ALL)
    assert found is not None
    assert (found.family, found.attribute, found.value) == (family, attribute, value)


def test_only_the_kinds_asked_for_and_only_where_differs_in_label_only() -> None:
    assert member("1f550", FAMILIES) is None and member("1f680", ALL) is None
    words = member("1f197", FAMILIES)
    assert words is not None
    assert differs_in_label_only("noto", words) and not differs_in_label_only("openmoji", words)


@pytest.mark.skipif(not iconify.available(), reason="npm images are not installed")
def test_clocks_and_arrows_are_whole_families_of_each_set() -> None:
    config = EmojiSource(
        sets=("noto", "openmoji"), max_concepts=1, max_people=0, families=("clock", "arrow", "word")
    )
    groups: dict[str, set[str]] = {}
    for item in plan(config):
        if "art_style" not in item.attributes:
            groups.setdefault(item.group_key, set()).update(item.attributes.values())
    sizes = {key: len(values) for key, values in groups.items()}
    assert sizes["emoji:clock face:noto"] == sizes["emoji:clock face:openmoji"] == 24
    assert sizes["emoji:arrow:noto"] == 8 and sizes["emoji:word button:noto"] == 6
    assert "emoji:word button:openmoji" not in sizes


@pytest.mark.parametrize(
    ("attribute", "start", "end", "wanted"),
    [
        ("clock", "3:00", "9:30", "9:30"),
        ("direction", "up", "down left", "down left"),
        ("text", "UP!", "NG", "'NG'"),
    ],
)
def test_every_family_has_six_ways_to_ask_and_an_inverse(
    attribute: str, start: str, end: str, wanted: str
) -> None:
    relation, category = relation_of(attribute)
    assert category == ("text" if attribute == "text" else "local")
    assert len(set(WORDINGS[relation].change.sentences)) >= 6
    seen = set()
    for number in range(60):
        request = CaptionRequest(
            pair_id=f"{number:064x}",
            relation_class=category,
            relation=relation,
            params=f'{{"attribute": "{attribute}", "from": "{start}", "to": "{end}"}}',
            contexts=(ImageFacts("sign", {attribute: start}),),
            target=ImageFacts("sign", {attribute: end}),
        )
        caption = TemplateCaptioner().caption(request)
        assert caption.status == "ok" and wanted in caption.instruction
        assert start in caption.instruction_inverse
        seen.add(caption.instruction)
    assert len(seen) >= 6
