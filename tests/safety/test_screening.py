from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from kontext.data.buckets import Buckets
from kontext.data.forms import Crops
from kontext.data.pixels import encode_png
from kontext.safety import screening
from kontext.safety.screening import ScoreChunk, plan_scores, score_chunk
from kontext.store.artifacts.artifact_store import ArtifactWriter
from schemas.recipes import load_recipe
from tests.data.pictures import scene_png
from tests.stages.stage_harness import Harness

SQUARE = Crops(Buckets(((64, 64),)))
IDS = [f"{number:064x}" for number in range(3)]


def chunk_of(folder: Path) -> ScoreChunk:
    """The chunk of three pictures in a store."""
    harness = Harness(folder, load_recipe("ci"))
    table = pa.table({"pixel_id": IDS, "png": [scene_png(number) for number in range(3)]})

    def fill(writer: ArtifactWriter) -> None:
        writer.add_table("pixels/000.parquet", table)

    stored = harness.make("ingest", fill).stored("pixels/000.parquet")
    (chunk,) = plan_scores([stored], ("open-nsfw",), crops=SQUARE)
    return chunk


def test_parts_of_a_chunk_have_the_scores_of_the_whole(tmp_path: Path) -> None:
    chunk = chunk_of(tmp_path)
    ((file, rows),) = chunk.parts
    assert [path.stat().st_size for path in chunk.files()] == [file.file.size]
    assert rows == (0, 1, 2)
    low, high = chunk.halves() or ()
    assert low.halves() is None and high.halves() is not None
    parts = pa.concat_tables([score_chunk(low)["scores"], score_chunk(high)["scores"]])
    whole = score_chunk(chunk)["scores"]
    assert whole["pixel_id"].to_pylist() == parts["pixel_id"].to_pylist() == IDS
    np.testing.assert_allclose(whole["score"].to_numpy(), parts["score"].to_numpy(), atol=1e-6)


def test_few_pictures_of_several_files_share_a_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [f"{number:064x}" for number in range(9)]

    def fill(writer: ArtifactWriter) -> None:
        for first in (0, 3, 6):
            pngs = [scene_png(number) for number in range(first, first + 3)]
            table = pa.table({"pixel_id": ids[first : first + 3], "png": pngs})
            writer.add_table(f"pixels/{first:03d}.parquet", table)

    made = Harness(tmp_path, load_recipe("ci")).make("ingest", fill)
    files, names = [made.stored(name) for name in made.names("pixels/")], ("open-nsfw",)
    known = {ids[0], ids[4], ids[8]}
    (chunk,) = plan_scores(files, names, known, crops=SQUARE)
    assert [rows for _, rows in chunk.parts] == [(1, 2), (0, 2), (0, 1)] and len(chunk) == 6
    low, high = chunk.halves() or ()
    assert [rows for _, rows in low.parts] == [(1, 2), (0,)]
    assert [rows for _, rows in high.parts] == [(2,), (0, 1)]
    assert score_chunk(high)["scores"]["pixel_id"].to_pylist() == ids[5:8]
    monkeypatch.setattr(screening, "CHUNK", 4)
    assert [len(one) for one in plan_scores(files, names, known, crops=SQUARE)] == [4, 2]


def test_an_image_that_costs_workers_has_no_scores_and_so_passes_no_limit(tmp_path: Path) -> None:
    low, _ = chunk_of(tmp_path).halves() or ()
    scores = low.given_up("three workers were lost at it")["scores"]
    assert scores.schema == score_chunk(low)["scores"].schema
    assert scores["pixel_id"].to_pylist() == IDS[:1]
    assert np.isnan(scores["score"].to_numpy()).all()


class Brightest:
    """Says how bright the brightest channel of all is on average."""

    name, version, labels = "brightest", "brightest@1", ("bright",)

    def scores(self, images):  # type: ignore[no-untyped-def]
        return {"bright": np.array([image.mean() / 255 for image in images], np.float32)}


def test_a_crop_is_scored_too_and_the_largest_of_the_forms_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A light middle between dark sides, a dark one between light sides, and a plain square."""
    light, dark = np.zeros((64, 128, 3), np.uint8), np.full((64, 128, 3), 255, np.uint8)
    light[:, 32:96], dark[:, 32:96] = 255, 0
    table = pa.table(
        {"pixel_id": IDS, "png": [encode_png(p) for p in (light, dark, light[:, :64])]}
    )
    made = Harness(tmp_path, load_recipe("ci")).make(
        "ingest", lambda writer: writer.add_table("pixels/000.parquet", table)
    )
    monkeypatch.setattr(screening, "load_classifier", lambda name: Brightest())
    monkeypatch.setattr(screening, "prove", lambda classifier: None)
    (chunk,) = plan_scores([made.stored("pixels/000.parquet")], ("brightest",), crops=SQUARE)
    scores = score_chunk(chunk)["scores"]
    assert scores["score"].to_pylist() == pytest.approx([1, 0.5, 0.5])
    assert scores["forms"].to_pylist() == [pytest.approx(f) for f in ([0.5, 1], [0.5, 0], [0.5])]
