"""ATTRIBUTION.md names every piece of art that the default recipe renders."""

import json
from importlib import import_module
from pathlib import Path

import pytest

from kontext.data.sources.dicebear import DiceBearSource
from kontext.data.sources.emoji import EmojiSource
from schemas.recipes import RECIPES, load_recipe
from schemas.sections.sources import source_kinds

ROOT = Path(__file__).parents[1]
HEAD = "| art | where we take it from | author | licence | source |"
TEXT = (ROOT / "ATTRIBUTION.md").read_text()


def line_with(name: str) -> str:
    found = [line for line in TEXT.splitlines() if name in line and line.startswith("|")]
    assert found, f"ATTRIBUTION.md does not name {name}"
    return found[0]


@pytest.mark.parametrize(
    "name", sorted(json.loads((ROOT / "package.json").read_text())["dependencies"])
)
def test_every_npm_package_at_its_pinned_version(name: str) -> None:
    version = json.loads((ROOT / "package.json").read_text())["dependencies"][name]
    assert f"`{name}` {version} " in line_with(f"`{name}` ")


SOURCES = [source for name in RECIPES for source in load_recipe(name).ingest.sources]


def test_emoji_sets_and_their_licences() -> None:
    names = {s for source in SOURCES if isinstance(source, EmojiSource) for s in source.sets}
    assert names
    for name in names:
        line = line_with(f"`@iconify-json/{name}` ")
        info = ROOT / "node_modules" / "@iconify-json" / name / "info.json"
        if info.exists():
            licence = json.loads(info.read_text())["license"]["spdx"]
            assert licence in line


def test_every_source_states_its_art_and_nothing_else_is_listed() -> None:
    """A source's rows lie beside it; the file's tables of art are these rows."""
    art, _, _ = TEXT.partition("### What the licences ask of you")
    listed = {line for line in art.splitlines() if line.startswith("| ")} - {HEAD}
    stated = {
        line
        for config in source_kinds().values()
        for line in import_module(config.__module__).ATTRIBUTION.strip().splitlines()
    }
    assert stated == listed


def test_dicebear_styles_with_creator_and_licence() -> None:
    import dicebear_styles

    folder = Path(next(iter(dicebear_styles.__path__)))
    styles = {s for source in SOURCES if isinstance(source, DiceBearSource) for s in source.styles}
    assert {"critters", "micah"} <= styles
    for style in styles:
        meta = json.loads((folder / f"{style}.json").read_text())["meta"]
        line = line_with(meta["creator"]["name"])
        assert meta["license"]["name"].replace("CC BY", "CC-BY").replace(" ", "-") in line.replace(
            "CC0 ", "CC0-"
        )


def test_licence_is_the_whole_apache_text() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "END OF TERMS AND CONDITIONS" in text and "APPENDIX" in text and len(text) > 11_000
