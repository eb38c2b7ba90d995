import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kontext.data.sources import plan
from kontext.data.sources.cutouts import CutoutSource
from kontext.errors import SourceError
from tests.data.pictures import scene


def art(folder: Path) -> None:
    """The two packages' layout, with pictures of one's own."""
    land = folder / "usr/share/games/endless-sky/images/land"
    stamps = folder / "usr/share/tuxpaint/stamps"
    land.mkdir(parents=True)
    for n, name in enumerate(["beach0", "beach1-someone", "snow3", "snow4", "myrabella4", "city2"]):
        Image.fromarray(scene(n, 80)[:60]).save(land / f"{name}.jpg")
    told = {
        "animals/birds/toucan": "A toucan.\nfr.utf8=Un toucan.",
        "vehicles/boat": "A red boat.",
        "food/plum": "A plum",
        "animals/crowd": "Some animals in a long line",
        "military/sword": "A sword.",
        "people/child": "A child.",
    }
    for n, (name, words) in enumerate(told.items()):
        path = stamps / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        rgba = np.dstack([scene(20 + n, 200), np.zeros((200, 200), np.uint8)])
        rgba[20:180, 20:180, 3] = 255
        Image.fromarray(rgba).save(path)
        path.with_suffix(".txt").write_text(words)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    art(tmp_path)
    monkeypatch.setenv("KONTEXT_DEBIAN_ART", str(tmp_path))
    return tmp_path


def test_groups_differ_in_place_or_object_and_share_no_photograph(folder: Path) -> None:
    items = plan(CutoutSource(scenes=9))
    groups = Counter(item.group_key for item in items)
    assert len(groups) == 2 and set(groups.values()) == {6}
    places = {item.group_key: set() for item in items}
    for item in items:
        places[item.group_key].add(item.attributes["place"])
    assert all(len(found) == 2 for found in places.values())
    objects = {item.attributes["object"] for item in items}
    assert objects <= {"none", "toucan", "red boat", "plum"}, "people, weapons, long captions"
    payloads = [item.payload for item in items]
    assert len(set(payloads)) == len(items)
    assert [i.payload for i in plan(CutoutSource(scenes=9))] == payloads


def test_only_the_cut_out_s_own_pixels_change(folder: Path) -> None:
    items = {
        (i.group_key, i.attributes["place"], i.attributes["object"]): i
        for i in plan(CutoutSource())
    }
    (group, place, thing), changed = next((k, i) for k, i in items.items() if k[2] != "none")
    plain = items[group, place, "none"]
    one, other = (
        np.asarray(Image.open(io.BytesIO(item.payload or b""))) for item in (plain, changed)
    )
    differs = (one != other).any(axis=2)
    assert 0.02 < differs.mean() < 0.5
    assert not differs[: len(differs) // 3].any(), "the cut-out stands in the lower part"
    assert changed.license_spdx == "GPL-2.0-only" and plain.license_spdx == "CC-BY-SA-4.0"
    assert thing != "none"


def test_without_the_packages_one_line_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KONTEXT_DEBIAN_ART", str(tmp_path / "none"))
    with pytest.raises(SourceError, match="make debian-art"):
        plan(CutoutSource())
