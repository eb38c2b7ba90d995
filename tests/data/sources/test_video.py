"""Videos as a source: planned by their length, told by samples, mined by what has moved."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from kontext.data.mine.candidate import MinedImage, Moment
from kontext.data.mine.frames import mine
from kontext.data.sources import read
from kontext.data.sources.external import fingerprint
from kontext.data.sources.found import findings, source_at
from kontext.data.sources.video import VideoSource
from kontext.errors import SourceError
from schemas.recipes import Recipe
from schemas.sections.data import IngestConfig, MineConfig
from tests.data.layouts.files import put
from tests.data.videos import frames, scene, write
from tests.stages.stage_harness import Harness

pytest.importorskip("av")


def folder(path: Path) -> Path:
    put(path, {"notes.md": "x", "broken.mp4": "no video", ".hidden.mp4": "x"})
    write(path / "a.mp4", frames())
    write(path / "b.mkv", frames(1, 1))
    return path


def test_frames_are_planned_and_the_rest_has_reasons(tmp_path: Path) -> None:
    found = read(VideoSource(path=str(folder(tmp_path / "clips")), license_spdx="CC0-1.0"))
    assert [item.ref for item in found.items][:3] == ["a.mp4@0.000", "a.mp4@1.000", "a.mp4@2.000"]
    assert Counter(item.group_key for item in found.items) == {
        "video:clips:a.mp4": 8, "video:clips:b.mkv": 1
    }  # fmt: skip
    assert {one.ref: one.reason for one in found.skipped} == {
        ".hidden.mp4": "hidden", "broken.mp4": "corrupt", "notes.md": "not_used"
    }  # fmt: skip
    few = read(VideoSource(path=str(tmp_path / "clips" / "a.mp4"), max_frames=3))
    assert [item.ref for item in few.items] == ["a.mp4@0.000", "a.mp4@2.667", "a.mp4@5.333"]


def test_inspect_and_clear_errors(tmp_path: Path) -> None:
    path = folder(tmp_path / "clips")
    found = findings(source_at(str(path)))
    assert (found.layout, found.pictures, found.warnings) == ("video", 9, [])
    assert source_at(str(path / "a.mp4")) == VideoSource(path=str(path / "a.mp4"))
    put(tmp_path / "bad", {"x.mp4": "nothing"})
    with pytest.raises(SourceError, match=r"no video that can be opened: x\.mp4"):
        findings(source_at(str(tmp_path / "bad")))
    with pytest.raises(SourceError, match="does not exist"):
        read(VideoSource(path=str(tmp_path / "none")))


def test_a_file_of_gigabytes_is_told_without_being_read(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    with path.open("wb") as file:
        file.truncate(20 << 30)  # a hole: nothing is on the disk
    config = IngestConfig(sources=(VideoSource(path=str(path)),))
    seen = {fingerprint(config)}
    for at in (0, (20 << 30) - 1):
        with path.open("r+b") as file:
            file.seek(at)
            file.write(b"x")
        seen.add(fingerprint(config))
    assert len(seen) == 3
    with pytest.raises(SourceError, match="no video that can be opened"):
        read(VideoSource(path=str(path)))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Harness:
    tmp_path = tmp_path_factory.mktemp("video-run")
    source = VideoSource(path=str(folder(tmp_path / "clips")), license_spdx="CC-BY-4.0", every=0.5)
    ingest = IngestConfig(sources=(source,), processes=1, chunk_size=13, resolution=64)
    used = Harness(tmp_path, Recipe(name="test", ingest=ingest, mine=MineConfig(frames_apart=2)))
    for stage in ("ingest", "mine", "caption"):
        used.run(stage)
    return used


def test_frames_of_a_shot_become_pairs_with_evidence_and_words(made: Harness) -> None:
    ingest, pairs = made.inputs["ingest"], made.inputs["mine"].table("pairs.parquet").to_pylist()
    moments = {row["pixel_id"]: row for row in ingest.table("moments.parquet").to_pylist()}
    images = ingest.table("images")
    assert set(moments) == set(images["pixel_id"].to_pylist())
    assert ingest.manifest.metrics["images_planned"] == 18
    shots = {row["shot"] for row in moments.values() if row["series"].endswith("a.mp4")}
    assert shots == {0, 4000}  # none by the end of a chunk or by a canary
    assert pairs and {row["relation_class"] for row in pairs} == {"character"}
    for row in pairs:
        before, after = (moments[row["context_ids"][0]], moments[row["target_id"]])
        assert (before["series"], before["shot"]) == (after["series"], after["shot"])
        assert 0 < abs(before["at_s"] - after["at_s"]) <= 1.1
        assert row["miner"] == "frames" and '"moved":' in row["params"]
        assert row["license_spdx"] == "CC-BY-4.0"
    captions = made.inputs["caption"].table("captions.parquet").to_pylist()
    assert {row["status"] for row in captions} == {"ok"}
    ways = {(row["instruction"].endswith("later"), row["instruction_inverse"].endswith("later"))
            for row in captions if row["instruction"].endswith(("later", "earlier"))}  # fmt: skip
    assert ways <= {(True, False), (False, True)} and len(ways) == 2


def mined(pictures: list[np.ndarray], **options: float) -> list[tuple[str, float]]:
    images = [
        MinedImage(f"{n:02}", "v", "g", "", {}, "CC0-1.0", lambda i: pictures[int(i)],
                   Moment("frame", "v", 0, float(n)))
        for n in range(len(pictures))
    ]  # fmt: skip
    found = mine(images, MineConfig(**options))  # type: ignore[arg-type]
    return [(c.relation, float(c.params["moved"])) for c in found]


def test_a_pan_is_told_from_what_moves() -> None:
    moving = [scene(0, step) for step in (0, 20)]
    assert [relation for relation, _ in mined(moving)] == ["moment", "moment"]
    head = [np.full((64, 96, 3), 20, np.uint8) for _ in range(2)]
    for picture, left in zip(head, (30, 36), strict=True):  # before a plain wall
        picture[10:60, left : left + 30] = scene(3, 0)[10:60, :30]
    assert [relation for relation, _ in mined(head)] == ["moment", "moment"]
    panned = [scene(0, 40 - pan, pan) for pan in (0, 9)]  # the square stays in its place
    assert [relation for relation, _ in mined(panned)] == ["viewpoint", "viewpoint"]


def test_still_frames_other_pictures_and_blurred_ones_are_no_pairs() -> None:
    assert mined([scene(0, 0), scene(0, 0)]) == []
    assert mined([scene(0, 0), scene(1, 0)]) == []
    blurred = np.full_like(scene(0, 0), 128)
    sharp = [scene(0, step) for step in (0, 10, 20)]
    assert len(mined([*sharp[:2], blurred, sharp[2]], moved_most=1.0)) == 6
