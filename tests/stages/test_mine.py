"""Stage mine: pairs that sources bring beside those it mines, and an early end without any."""

from pathlib import Path
from typing import Any

import pytest

from kontext.data.sources.folder import FolderSource
from kontext.data.sources.pairs import PairsSource
from kontext.errors import GateError
from kontext.store.artifacts.artifact_store import Artifact
from schemas.recipes import Recipe
from schemas.sections.data import IngestConfig, MineConfig
from tests.data.layouts.files import parquet, picture, png, put
from tests.stages.stage_harness import Harness

CONVERSATIONS = 60


def harness(folder: Path, *sources: Any, **mine: Any) -> Harness:
    ingest = IngestConfig(sources=sources, processes=1, resolution=16)
    return Harness(folder, Recipe(name="test", ingest=ingest, mine=MineConfig(**mine)))


@pytest.fixture(scope="module")
def brushed(tmp_path_factory: pytest.TempPathFactory) -> Harness:
    """Sixty conversations of two turns in the columns of MagicBrush: three pictures each."""
    folder = tmp_path_factory.mktemp("brush")
    rows = [
        {"img_id": f"{number}", "turn_index": turn + 1, "mask_img": picture(9999)}
        | {"source_img": picture(3 * number + turn), "target_img": picture(3 * number + turn + 1)}
        | {"instruction": f"Édit no.\t{number}, “turn” {turn}  please "}
        for number in range(CONVERSATIONS)
        for turn in range(2)
    ]
    table = parquet(folder / "train.parquet", rows, ["source_img", "mask_img", "target_img"])
    used = harness(folder, PairsSource(path=str(table)), pairs_per_category=3, pairs_per_image=1)
    for stage in ("ingest", "mine", "caption"):
        used.run(stage)
    return used


def test_sixty_conversations_are_120_pairs_and_180_pictures(brushed: Harness) -> None:
    images = brushed.inputs["ingest"].table("images")
    assert images.num_rows == 3 * CONVERSATIONS
    pairs = brushed.inputs["mine"].table("pairs.parquet").to_pylist()
    assert len(pairs) == 2 * CONVERSATIONS  # no quota and no cap leaves any out
    assert all(len(row["context_ids"]) == 1 for row in pairs)
    assert {row["license_spdx"] for row in pairs} == {"CC-BY-4.0"}
    metrics = brushed.inputs["ingest"].manifest.metrics
    assert (metrics["given_pairs"], metrics["entries_skipped"]) == (120, 0)
    assert metrics["images_planned"] == metrics["images_kept"] + metrics["images_rejected"] == 240


def test_instructions_are_byte_equal(brushed: Harness) -> None:
    captions = brushed.inputs["caption"].table("captions.parquet").to_pylist()
    assert sorted(row["instruction"] for row in captions) == sorted(
        f"Édit no.\t{number}, “turn” {turn}  please "
        for number in range(CONVERSATIONS)
        for turn in range(2)
    )
    assert {row["status"] for row in captions} == {"ok"}
    assert {row["captioner"] for row in captions} == {"given/1"}
    pairs = brushed.inputs["mine"].table("pairs.parquet")["pair_id"].to_pylist()
    assert [row["pair_id"] for row in captions] == pairs


def test_turns_of_a_conversation_share_their_group(brushed: Harness) -> None:
    images = {
        row["pixel_id"]: row["group_key"]
        for row in brushed.inputs["ingest"].table("images").to_pylist()
    }
    for row in brushed.inputs["mine"].table("pairs.parquet").to_pylist():
        assert images[row["target_id"]] == images[row["context_ids"][0]] == row["group_key"]
    assert len(set(images.values())) == CONVERSATIONS


def test_a_pair_whose_picture_is_rejected_is_counted_and_noted(tmp_path: Path) -> None:
    files = {f"control/{n}.png": n for n in range(3)} | {f"target/{n}.png": 9 + n for n in range(3)}
    texts = {f"target/{n}.txt": "go" for n in range(3)}
    put(tmp_path / "mine", files | texts | {"target/1.png": png(4)[:60]})  # type: ignore[arg-type]
    used = harness(tmp_path, PairsSource(path=str(tmp_path / "mine")))
    made = used.run("ingest")
    assert made.manifest.metrics["given_pairs"] == 2
    assert "1 of 3 given pairs are lost: picture_truncated" in made.manifest.notes
    (outcome,) = [row for row in counts(used.run("mine")) if row["outcome"] == "picture_truncated"]
    assert outcome["pairs"] == 1


def counts(made: Artifact) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = made.json("counts.json")["outcomes"]
    return found


def test_given_and_mined_pairs_stand_side_by_side(tmp_path: Path) -> None:
    put(tmp_path / "pairs", {"control/a.png": 1, "target/a.png": 2, "target/a.txt": "go"})
    put(tmp_path / "labels", {"a__color=red.png": 3, "a__color=blue.png": 4})
    used = harness(
        tmp_path,
        PairsSource(path=str(tmp_path / "pairs")),
        FolderSource(path=str(tmp_path / "labels")),
        t2i_singles=0,
    )
    used.run("ingest")
    rows = used.run("mine").table("pairs.parquet").to_pylist()
    assert sorted(row["miner"] for row in rows) == ["attributes", "attributes", "given"]
    assert [row["pair_id"] for row in rows] == sorted(row["pair_id"] for row in rows)
    captions = used.run("caption").table("captions.parquet").to_pylist()
    assert [row["pair_id"] for row in captions] == [row["pair_id"] for row in rows]
    assert sorted(row["captioner"] for row in captions) == ["given/1", "templates/3", "templates/3"]


def test_an_instruction_in_a_files_name_is_not_worded_again(tmp_path: Path) -> None:
    """Names as somebody gave them to files of MagicBrush; the text once became "add What if …"."""
    text = "What if there was a obelisk in the back?"
    put(tmp_path / "mine", {"242679.png": 1, f"242679__edit={text}.png": 2})
    used = harness(tmp_path, FolderSource(path=str(tmp_path / "mine")), t2i_singles=0)
    used.run("ingest")
    (row,) = used.run("mine").table("pairs.parquet").to_pylist()
    assert (row["miner"], row["source"]) == ("given", "folder:mine")
    (caption,) = used.run("caption").table("captions.parquet").to_pylist()
    assert (caption["instruction"], caption["status"]) == (text, "ok")


def test_pictures_without_edits_end_early_with_the_layouts(tmp_path: Path) -> None:
    put(tmp_path / "photos", {"house.png": 1, "garden.png": 2, "IMG_0003.png": 3})
    used = harness(tmp_path, FolderSource(path=str(tmp_path / "photos")))
    used.run("ingest")
    with pytest.raises(GateError, match=r"(?s)no edit could be mined.*pairs/control/cat\.png"):
        used.run("mine")
    alone = harness(tmp_path, FolderSource(path=str(tmp_path / "photos")), miners=("singles",))
    alone.inputs = used.inputs
    made = alone.run("mine")
    assert made.manifest.notes[0] == "no edits: only text-to-image pairs were asked for"
    subjects = {row["params"] for row in made.table("pairs.parquet").to_pylist()}
    assert subjects == {'{"subject":"house"}', '{"subject":"garden"}'}  # no "a IMG 0003"
