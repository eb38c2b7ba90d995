"""A machine without npm: what is read instead, that it is said, and that it is another artifact."""

import json
from pathlib import Path

import pytest

from kontext.data.sources.dicebear import DiceBearSource
from kontext.data.sources.emoji import EmojiSource
from kontext.data.sources.external import fingerprint
from kontext.data.sources.fallback import resolve
from kontext.data.sources.meteocons import MeteoconsSource
from kontext.data.sources.openmoji_wheel import OpenMojiWheelSource
from kontext.data.sources.signs import SignSource
from kontext.engine.run import Engine
from kontext.stages import STAGES
from schemas.recipes import Recipe
from schemas.sections.data import IngestConfig, MineConfig
from schemas.tables import CATEGORIES
from tests.stages.stage_harness import Harness

SOURCES = (
    EmojiSource(max_concepts=6, max_people=3),
    MeteoconsSource(),
    DiceBearSource(seeds=2, values_per_attribute=2),
    SignSource(scenes=2, words_per_scene=2),
)


@pytest.fixture
def no_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty node_modules."""
    folder = tmp_path / "node_modules"
    monkeypatch.setenv("KONTEXT_NODE_MODULES", str(folder))
    return folder


def test_pip_only_images_are_mined_in_all_five_categories_and_recorded(
    tmp_path: Path, no_npm: Path
) -> None:
    config = IngestConfig(sources=SOURCES, processes=1)
    harness = Harness(tmp_path, Recipe(ingest=config, mine=MineConfig(pairs_per_category=200)))
    ingested = harness.run("ingest")
    notes = " ".join(ingested.manifest.notes)
    assert "replaced by OpenMoji from pip" in notes and "no weather icons" in notes
    assert ingested.manifest.metrics["pip_only_images"] is True
    used = ingested.json("sources.json")
    assert [s["kind"] for s in used["sources"]] == ["openmoji-wheel", "dicebear", "signs"]
    assert len(used["substitutions"]) == 2
    mined = harness.run("mine")
    assert all(mined.manifest.metrics[f"pairs_{name}"] for name in CATEGORIES)
    pairs = mined.table("pairs.parquet").to_pylist()
    styles = {json.loads(p["params"])["to"] for p in pairs if p["relation"] == "art_style"}
    assert styles == {"outlined OpenMoji", "black and white", "flat OpenMoji"}


def test_installing_npms_images_later_asks_for_another_ingest(no_npm: Path, tmp_path: Path) -> None:
    recipe = Recipe(ingest=IngestConfig(sources=SOURCES))

    def digest() -> str:
        url, home = f"file://{tmp_path}/store", tmp_path / "home"
        engine = Engine(recipe, url, tmp_path / "c", home, stages=STAGES)
        return engine.digests()["ingest"]

    without = digest()
    assert digest() == without
    (no_npm / "@iconify-json").mkdir(parents=True)
    assert digest() != without


def test_only_what_needs_npm_is_replaced(no_npm: Path) -> None:
    sources, notes = resolve(IngestConfig(sources=SOURCES))
    assert sources[1:] == SOURCES[2:] and len(notes) == 2
    assert isinstance(sources[0], OpenMojiWheelSource)
    own = IngestConfig(sources=SOURCES[2:])
    assert resolve(own) == (own.sources, ())
    refused = IngestConfig(sources=SOURCES, npm_fallback=False)
    assert resolve(refused) == (SOURCES, ())
    before = fingerprint(own)
    (no_npm / "@iconify-json").mkdir(parents=True)
    assert resolve(IngestConfig(sources=SOURCES)) == (SOURCES, ())
    assert fingerprint(own) == before  # npm matters only to those who would use it
