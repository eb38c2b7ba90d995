"""The data stages on photographs of several shapes and sizes, in a folder."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kontext.data.buckets import Buckets, fit
from kontext.data.pixels import Pixels
from kontext.data.shards.read import load_split
from kontext.data.sources.folder import FolderSource
from kontext.store.artifacts.artifact_store import Artifact
from schemas.recipes import Recipe
from schemas.sections.data import IngestConfig, ScreenConfig, ShardConfig
from tests.data.pictures import scene
from tests.stages.stage_harness import Harness

EDITS = 8
CENTRE, EDGE = (220, 280), (0, 60)  # columns of 500; the centre square is 125 to 375


def photograph(number: int, size: tuple[int, int]) -> Pixels:
    return np.asarray(Image.fromarray(scene(number)).resize(size, Image.Resampling.BICUBIC))


def save_edit(folder: Path, number: int, columns: tuple[int, int], twice: bool = False) -> None:
    """A photograph of 500 x 250 and its edit, which may have twice the pixels."""
    before = photograph(number, (500, 250))
    after = before.copy()
    after[90:150, slice(*columns)] = 255 - after[90:150, slice(*columns)]
    for value, rgb in (("off", before), ("on", after)):
        picture = Image.fromarray(rgb)
        if twice and value == "on":
            picture = picture.resize((1000, 500), Image.Resampling.LANCZOS)
        picture.save(folder / f"thing{number}__light={value}.png")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Harness:
    folder = tmp_path_factory.mktemp("shapes")
    (folder / "photographs").mkdir()
    for number in range(EDITS):
        save_edit(folder / "photographs", number, CENTRE, twice=number % 2 == 1)
    for number in range(EDITS, EDITS + 3):
        save_edit(folder / "photographs", number, EDGE)
    source = FolderSource(path=str(folder / "photographs"), license_spdx="CC0-1.0", author="me")
    recipe = Recipe(
        name="test",
        ingest=IngestConfig(sources=(source,), processes=1, resolution=64),
        screen=ScreenConfig(
            classifiers=("open-nsfw",), policy="no-nudenet", processes=1, clip_steps=2, clip_batch=8
        ),
        shard=ShardConfig(test_fraction=0.2, val_fraction=0.2),
    )
    used = Harness(folder, recipe)
    for stage in ("ingest", "mine", "caption", "screen", "shard"):
        used.run(stage)
    return used


def edits(used: Harness) -> dict[str, list[dict[str, object]]]:
    """Pairs with a context by the number of their photograph."""
    found: dict[str, list[dict[str, object]]] = {}
    images = {
        r["pixel_id"]: r["source_ref"] for r in used.inputs["ingest"].table("images").to_pylist()
    }
    for row in used.inputs["mine"].table("pairs.parquet").to_pylist():
        if row["context_ids"]:
            found.setdefault(images[row["target_id"]].partition("__")[0], []).append(row)
    return found


def test_no_edit_is_lost_as_a_duplicate(made: Harness) -> None:
    assert made.inputs["ingest"].table("images").num_rows == 2 * (EDITS + 3)
    assert set(map(len, edits(made).values())) == {2}


def test_an_edit_outside_of_the_crop_is_rejected_and_counted(made: Harness) -> None:
    verdicts = {
        r["pair_id"]: r for r in made.inputs["screen"].table("accepted.parquet").to_pylist()
    }
    for thing, rows in edits(made).items():
        cropped = int(thing.removeprefix("thing")) >= EDITS
        for row in rows:
            assert ("edit_cropped" in verdicts[row["pair_id"]]["reject_reasons"]) == cropped
    dropped = made.report.tables["screen-dropped"]
    assert sum(row["pairs"] for row in dropped if row["reason"] == "edit_cropped") == 6
    assert made.inputs["screen"].manifest.metrics["pass_rate/change_kept"] < 1


def test_shards_hold_context_and_target_through_one_transform(made: Harness) -> None:
    shards = made.inputs["shard"]
    rows = [row for name in ("train", "val", "test") for row in _edits_of(shards, name)]
    assert len(rows) == 2 * EDITS
    for context, target in rows:
        assert context.shape == target.shape == (64, 64, 3)
        apart = np.abs(context.astype(int) - target).max(axis=2) > 24
        columns, lines = apart.any(axis=0).nonzero()[0], apart.any(axis=1).nonzero()[0]
        scale = 64 / 250
        wanted = [(edge - 125) * scale for edge in CENTRE], [90 * scale, 150 * scale]
        for found, edges in zip((columns, lines), wanted, strict=True):
            assert found.min() == pytest.approx(edges[0], abs=1.5)
            assert found.max() + 1 == pytest.approx(edges[1], abs=1.5)


def _edits_of(shards: Artifact, split: str) -> list[tuple[Pixels, Pixels]]:
    pairs = load_split(shards, split)
    return [
        (pairs.pixels(row.contexts)[0], pairs.pixels([row.target])[0])
        for row in pairs.rows
        if row.contexts
    ]


def test_a_square_dataset_is_what_it_was() -> None:
    buckets = Buckets.of(IngestConfig(resolution=48))
    assert buckets.sizes == ((48, 48),)
    assert buckets.fit((500, 250)) == fit((500, 250), (48, 48))
