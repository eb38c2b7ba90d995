import pytest

from kontext.data.sources import iconify, meteocons, plan
from kontext.data.sources.codepoints import parse_codes
from kontext.data.sources.emoji import EmojiSource
from kontext.data.sources.meteocons import MeteoconsSource
from kontext.errors import SourceError

needs_npm = pytest.mark.skipif(not iconify.available(), reason="npm images are not installed")


@pytest.mark.parametrize(
    ("codes", "base", "labels"),
    [
        ("1f680", "1f680", {}),
        ("1f44b-1f3fd", "1f44b", {"skin_tone": "medium"}),
        ("1f469-1f3ff-200d-1f680", "person-1f680", {"gender": "woman", "skin_tone": "dark"}),
        ("1f3c3-200d-2642-fe0f", "1f3c3", {"gender": "man"}),
        ("1f468-200d-1f9b0", "person", {"gender": "man", "hair": "red"}),
        ("1faf1-1f3fb-200d-1faf2-1f3ff", "1faf1-1faf2-1f3ff", {"skin_tone": "light"}),
    ],
)
def test_code_points_give_exact_labels(codes: str, base: str, labels: dict[str, str]) -> None:
    assert parse_codes(codes) == (base, labels)


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("clear-day", {"sky": "clear", "time": "day", "weather": "none", "drawing": "line"}),
        (
            "extreme-night-rain-fill",
            {"sky": "extreme", "time": "night", "weather": "rain", "drawing": "filled"},
        ),
        ("fog-night", {"sky": "fog", "time": "night", "weather": "none", "drawing": "line"}),
        ("barometer", None),
        ("cloudy", None),
    ],
)
def test_weather_names_give_exact_labels(name: str, labels: dict[str, str] | None) -> None:
    assert meteocons.parse_name(name) == labels


@needs_npm
def test_the_plan_is_deterministic_unique_and_labelled() -> None:
    config = EmojiSource(max_concepts=12, max_people=4)
    items = plan(config)
    assert items == plan(config)
    assert len({(item.source, item.ref) for item in items}) == len(items)
    styles = {item.attributes["art_style"] for item in items if "art_style" in item.attributes}
    assert "flat Fluent" in styles and "black and white" in styles
    assert all(item.license_spdx != "LicenseRef-unknown" and item.author for item in items)


@needs_npm
def test_adding_concepts_keeps_those_already_chosen() -> None:
    few = {i.ref for i in plan(EmojiSource(max_concepts=5, max_people=0))}
    more = {i.ref for i in plan(EmojiSource(max_concepts=25, max_people=0))}
    assert few < more


@needs_npm
def test_weather_icons_have_their_animations_stripped() -> None:
    items = plan(MeteoconsSource())
    assert len(items) > 100
    assert not any(b"<animate" in item.read() for item in items)
    assert {item.attributes["time"] for item in items} == {"day", "night"}


def test_a_missing_icon_set_says_what_to_do(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KONTEXT_NODE_MODULES", str(tmp_path))
    iconify.load_icon_set.cache_clear()
    with pytest.raises(SourceError, match="npm install"):
        iconify.load_icon_set("noto")
    iconify.load_icon_set.cache_clear()
