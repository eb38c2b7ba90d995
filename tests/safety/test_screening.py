from pathlib import Path

import numpy as np
import pyarrow as pa

from kontext.safety.screening import ScoreChunk, plan_scores, score_chunk
from kontext.store.artifacts.artifact_store import ArtifactWriter
from schemas.recipes import load_recipe
from tests.data.pictures import scene_png
from tests.stages.stage_harness import Harness

IDS = [f"{number:064x}" for number in range(3)]


def chunk_of(folder: Path) -> ScoreChunk:
    """The chunk of three pictures in a store."""
    harness = Harness(folder, load_recipe("ci"))
    table = pa.table({"pixel_id": IDS, "png": [scene_png(number) for number in range(3)]})

    def fill(writer: ArtifactWriter) -> None:
        writer.add_table("pixels/000.parquet", table)

    stored = harness.make("ingest", fill).stored("pixels/000.parquet")
    (chunk,) = plan_scores([stored], ("open-nsfw",))
    return chunk


def test_parts_of_a_chunk_have_the_scores_of_the_whole(tmp_path: Path) -> None:
    chunk = chunk_of(tmp_path)
    assert [path.stat().st_size for path in chunk.files()] == [chunk.pixels.file.size]
    low, high = chunk.halves() or ()
    assert low.halves() is None and high.halves() is not None
    parts = pa.concat_tables([score_chunk(low)["scores"], score_chunk(high)["scores"]])
    whole = score_chunk(chunk)["scores"]
    assert whole["pixel_id"].to_pylist() == parts["pixel_id"].to_pylist() == IDS
    np.testing.assert_allclose(whole["score"].to_numpy(), parts["score"].to_numpy(), atol=1e-6)


def test_an_image_that_costs_workers_has_no_scores_and_so_passes_no_limit(tmp_path: Path) -> None:
    low, _ = chunk_of(tmp_path).halves() or ()
    scores = low.given_up("three workers were lost at it")["scores"]
    assert scores.schema == score_chunk(low)["scores"].schema
    assert scores["pixel_id"].to_pylist() == IDS[:1]
    assert np.isnan(scores["score"].to_numpy()).all()
