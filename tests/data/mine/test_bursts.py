"""Photographs taken within seconds, as their cameras say, become pairs."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kontext.data.decode import decode_image
from kontext.data.decode.taken import taken_at
from kontext.data.mine.bursts import mine
from kontext.data.mine.candidate import MinedImage, Moment
from kontext.data.sources.folder import FolderSource
from schemas.recipes import Recipe
from schemas.sections.data import IngestConfig, MineConfig
from tests.data.videos import scene
from tests.stages.stage_harness import Harness


def photograph(rgb: np.ndarray, time: str, fraction: str = "", kind: str = "JPEG") -> bytes:
    exif, sink = Image.Exif(), io.BytesIO()
    exif.get_ifd(0x8769).update({0x9003: time, 0x9291: fraction})
    Image.fromarray(rgb).save(sink, kind, exif=exif, quality=95)
    return sink.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_the_time_is_read_where_the_decoder_runs(kind: str) -> None:
    data = photograph(scene(0, 0), "2024:02:29 23:59:58", "75", kind)
    decoded = decode_image(data, resolution=None, background="#ffffff")
    assert decoded.taken == 1709251198.75


@pytest.mark.parametrize(
    "time", ["", "0000:00:00 00:00:00", "2023:02:29 00:00:00", "2024:01:01 25:00:00", "yesterday"]
)
def test_a_time_that_is_none(time: str) -> None:
    assert taken_at(photograph(scene(0, 0), time)) is None


def test_bytes_that_are_no_picture_have_no_time() -> None:
    data = photograph(scene(0, 0), "2024:02:29 23:59:58")
    for broken in (b"", b"\xff\xd8\xff\xe1", data[:40], data.replace(b"2024:02:29", b"\0" * 10)):
        assert taken_at(broken) is None


def mined(*shown: tuple[float, np.ndarray], series: str = "s", **options: float) -> list[str]:
    pictures = {f"{n:02}": rgb for n, (_, rgb) in enumerate(shown)}
    images = [
        MinedImage(name, "f", "g", "", {}, "CC0-1.0", pictures.__getitem__,
                   Moment("photograph", series, 0, at))
        for name, (at, _) in zip(pictures, shown, strict=True)
    ]  # fmt: skip
    found = mine(images, MineConfig(**options))  # type: ignore[arg-type]
    return [f"{c.context_ids[0]}>{c.target_id} {c.params['to']}" for c in found]


def test_a_burst_ends_where_time_or_shape_does() -> None:
    moving = [scene(0, step) for step in (0, 10, 20, 30)]
    assert mined((0, moving[0]), (5, moving[1])) == [
        "00>01 five seconds later", "01>00 five seconds earlier"
    ]  # fmt: skip
    assert mined((0, moving[0]), (9, moving[1])) == []
    assert mined((0, moving[0]), (9, moving[1]), burst_seconds=10) != []
    assert mined((0, moving[0]), (1, np.rot90(moving[1]))) == []
    four = mined(*((float(7 * n), rgb) for n, rgb in enumerate(moving)), frames_apart=1)
    assert [one[:5] for one in four] == ["00>01", "01>00", "01>02", "02>01", "02>03", "03>02"]


def test_photographs_of_one_second_have_an_order() -> None:
    found = mined((3.0, scene(0, 20)), (3.0, scene(0, 0)))
    assert found == ["00>01 a moment later", "01>00 a moment earlier"]


def test_a_folder_of_photographs_becomes_edits(tmp_path: Path) -> None:
    folder = tmp_path / "holiday"
    for name, shot, step, time in (
        ("day1/IMG_1.jpg", 0, 0, "10:00:00"), ("day1/IMG_2.jpg", 0, 12, "10:00:01"),
        ("day1/IMG_3.jpg", 1, 0, "10:00:02"), ("day1/IMG_4.jpg", 0, 24, "11:00:00"),
        ("day2/IMG_1.jpg", 0, 36, "10:00:01"),
    ):  # fmt: skip
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photograph(scene(shot, step), f"2024:05:01 {time}"))
    source = FolderSource(path=str(folder), license_spdx="CC0-1.0")
    ingest = IngestConfig(sources=(source,), processes=1, resolution=64)
    used = Harness(tmp_path, Recipe(name="test", ingest=ingest))
    for stage in ("ingest", "mine", "caption"):
        used.run(stage)
    moments = used.inputs["ingest"].table("moments.parquet").to_pylist()
    assert {row["series"] for row in moments} == {f"folder:holiday/day{n}" for n in (1, 2)}
    assert {row["kind"] for row in moments} == {"photograph"}
    pairs = used.inputs["mine"].table("pairs.parquet").to_pylist()
    assert [(row["miner"], row["relation_class"]) for row in pairs] == [("bursts", "character")] * 2
    captions = used.inputs["caption"].table("captions.parquet").to_pylist()
    assert all("one second" in row["instruction"] for row in captions)
