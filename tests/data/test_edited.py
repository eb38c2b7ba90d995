"""Programmatic edits from a folder of single pictures: made, gated, counted, worded."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kontext.data import edited
from kontext.data.images import ImageBank
from kontext.data.operations import operations
from kontext.data.pixels import encode_png, pixel_id
from kontext.data.sources import modules_named
from kontext.data.sources.base import GivenPair, SourceItem
from kontext.data.sources.folder import FolderSource
from kontext.errors import GateError, RecipeError
from kontext.safety.canaries import canary_png
from kontext.store.artifacts.artifact_store import Artifact
from schemas.recipe import Recipe
from schemas.sections.data import EditsConfig, IngestConfig, MineConfig
from tests.data.operations.pictures import cutout, scene
from tests.stages.stage_harness import Harness

NAMES = ("IMG_0001.png", "IMG_0002.webp", "IMG_0003.jpg", "IMG_0004.png")
CONFIG = IngestConfig(edits=EditsConfig(per_picture=5))


def fill(folder: Path) -> None:
    """Three scenes, one of them wide, a cut-out, a pair with labels, a canary and no picture."""
    folder.mkdir(parents=True)
    Image.fromarray(scene(1, 128, 128).rgb).save(folder / "IMG_0001.png")
    Image.fromarray(scene(2, 192, 128).rgb).save(folder / "IMG_0002.webp", lossless=True)
    Image.fromarray(scene(3, 96, 128).rgb).save(folder / "IMG_0003.jpg")
    head = cutout()
    assert head.alpha is not None
    alpha = np.rint(head.alpha * 255).astype(np.uint8)
    Image.fromarray(np.dstack([head.rgb, alpha])).save(folder / "IMG_0004.png")
    (folder / "IMG_0005.png").write_bytes(b"no picture")
    (folder / "secretname.png").write_bytes(canary_png(9))


def harness(folder: Path, per_picture: int, **mine: Any) -> Harness:
    source = FolderSource(path=str(folder / "photos"), license_spdx="CC0-1.0", author="me")
    ingest = IngestConfig(
        sources=(source,), processes=1, edits=EditsConfig(per_picture=per_picture)
    )
    return Harness(folder, Recipe(name="test", ingest=ingest, mine=MineConfig(**mine)))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Harness, Artifact, Artifact, Artifact]:
    folder = tmp_path_factory.mktemp("edits")
    fill(folder / "photos")
    used = harness(folder, 4)
    return used, used.run("ingest"), used.run("mine"), used.run("caption")


Run = tuple[Harness, Artifact, Artifact, Artifact]


def test_every_single_picture_becomes_edits(made: Run) -> None:
    _, ingest, mine, _ = made
    rows = ingest.table("edits.parquet").to_pylist()
    forward = Counter(r["row"].split("#")[0] for r in rows if not r["row"].endswith("-back"))
    assert forward == dict.fromkeys(NAMES, 4)
    pairs = mine.table("pairs.parquet").to_pylist()
    assert {pair["miner"] for pair in pairs} == {"edits"} and len(pairs) == len(rows)
    for row in rows:  # each picture has operations of four categories
        assert row["category"] == operations()[row["operation"]].category
    first = [
        r["category"]
        for r in rows
        if r["row"].startswith("IMG_0001.png") and "-back" not in r["row"]
    ]
    assert len(set(first)) == 4


def test_what_was_planned_adds_up_without_what_was_made(made: Run) -> None:
    used, ingest, *_ = made
    metrics = ingest.manifest.metrics
    assert (metrics["images_planned"], metrics["images_kept"], metrics["images_rejected"]) == (
        6,
        4,
        2,
    )
    assert metrics["images_made"] == ingest.table("images").num_rows - 4 > 16
    outcomes = {
        (r["source"], r["outcome"]): r["images"] for r in used.report.tables["ingest-outcomes"]
    }
    assert outcomes["folder:photos", "kept"] == 4
    assert outcomes["folder:photos", "unsupported_format"] == 1


def test_what_was_made_is_gated_and_belongs_to_its_picture(made: Run) -> None:
    _, ingest, *_ = made
    images = ingest.table("images").to_pylist()
    assert ingest.table("decisions.parquet").num_rows == len(images) + 3 + 1
    for row in images:
        base = row["source_ref"].split("#")[0]
        assert row["group_key"] == f"folder:photos:{Path(base).stem}"
        assert (row["license_spdx"], row["author"], row["attributes"]) == ("CC0-1.0", "me", "{}")
        assert "#" not in row["source_ref"] or (row["concept"], row["format"]) == ("", "png")
    assert "secretname" not in str(images) + str(ingest.table("edits.parquet").to_pylist())


def test_pairs_are_what_the_evidence_says(made: Run) -> None:
    """The operation, its parameters and the picture give the same bytes again."""
    _, ingest, mine, _ = made
    bank = ImageBank(ingest)
    edits = {row["row"]: row for row in ingest.table("edits.parquet").to_pylist()}
    checked = 0
    for pair in mine.table("pairs.parquet").to_pylist():
        params = json.loads(pair["params"])
        name = params["row"].removeprefix("folder:photos/")
        context, target = (bank.stored(i) for i in (pair["context_ids"][0], pair["target_id"]))
        mask = (context != target).any(axis=2)
        left, top, right, bottom = map(int, params["box"].split())
        assert mask.mean() == pytest.approx(params["changed"], abs=1e-5)
        assert mask[top:bottom, left:right].sum() == mask.sum()
        assert params["instruction"] == edits[name]["instruction"]
        assert (
            params["operation"]
            == edits[name]["operation"]
            == name.split("#")[1].removesuffix("-back")
        )
        checked += 1
        if name.endswith("-back"):
            there = edits[name.removesuffix("-back")]
            assert (edits[name]["context"], edits[name]["target"]) == (
                there["target"],
                there["context"],
            )
            assert params["inverse"] == there["instruction"]
    assert checked


def test_pictures_are_edited_where_training_looks(made: Run) -> None:
    """A wide picture's edits are made of its middle, so that none is cut off."""
    _, ingest, *_ = made
    sizes = {
        row["source_ref"]: (row["width_px"], row["height_px"])
        for row in ingest.table("images").to_pylist()
    }
    assert sizes["IMG_0002.webp"] == (192, 128)
    assert {size for ref, size in sizes.items() if ref.startswith("IMG_0002.webp#")} == {(128, 128)}
    rows = [r for r in ingest.table("edits.parquet").to_pylist() if r["row"].startswith("IMG_0001")]
    assert "IMG_0001.png" in {row["context"] for row in rows}  # a square one is its own context


def test_instructions_reach_the_captions_with_their_inverse(made: Run) -> None:
    _, _, mine, caption = made
    pairs = mine.table("pairs.parquet").to_pylist()
    texts = caption.table("captions.parquet").to_pylist()
    for pair, text in zip(pairs, texts, strict=True):
        params = json.loads(pair["params"])
        assert (text["status"], text["captioner"]) == ("ok", "given/1")
        assert text["instruction"] == params["instruction"]
        assert text["instruction_inverse"] == params["inverse"]


def test_without_the_setting_nothing_is_made_and_mine_names_it(tmp_path: Path) -> None:
    fill(tmp_path / "photos")
    used = harness(tmp_path, 0)
    ingest = used.run("ingest")
    assert not ingest.names("edits") and ingest.table("images").num_rows == 4
    with pytest.raises(GateError, match=r"--set ingest\.edits\.per_picture=4"):
        used.run("mine")


def test_edits_depend_on_pixels_and_seed_alone() -> None:
    rgb = scene(4, 128, 128).rgb
    data, key = encode_png(rgb), pixel_id(rgb)
    one = edited.make(data, rgb, False, "a.png", key, CONFIG)
    again = edited.make(data, rgb, False, "a.png", key, CONFIG)
    assert one.pairs == again.pairs and list(one.pictures) == list(again.pictures)
    assert all(np.array_equal(one.pictures[ref], again.pictures[ref]) for ref in one.pictures)
    seeded = CONFIG.model_copy(update={"edits": EditsConfig(per_picture=5, seed=1)})
    assert edited.make(data, rgb, False, "a.png", key, seeded).pairs != one.pairs


def test_transparency_is_found_again_on_any_background() -> None:
    head = cutout()
    assert head.alpha is not None
    alpha = np.rint(head.alpha * 255).astype(np.uint8)
    colour = np.zeros_like(head.rgb)
    colour[:] = (120, 60, 160)
    import io

    out = io.BytesIO()
    Image.fromarray(np.dstack([colour, alpha])).save(out, "PNG")
    for background in ("#ffffff", "#102030", "#808080"):
        config = CONFIG.model_copy(update={"background": background, "resolution": 128})
        under = np.array([int(background[n : n + 2], 16) for n in (1, 3, 5)])
        share = head.alpha[..., None]
        rgb = np.rint(colour * share + under * (1 - share)).astype(np.uint8)
        found = edited._canvas(out.getvalue(), rgb, True, config)
        assert found.alpha is not None and np.abs(found.alpha - head.alpha).max() < 0.03
        assert found.background == tuple(under)


def test_only_named_operations_are_used_and_counted() -> None:
    rgb = scene(5, 128, 128).rgb
    some = EditsConfig(per_picture=9, operations=("sepia", "mirror"))
    config = CONFIG.model_copy(update={"edits": some})
    found = edited.make(encode_png(rgb), rgb, False, "a", pixel_id(rgb), config)
    assert {pair["operation"] for pair in found.pairs} == {"sepia", "mirror"}
    assert edited.marked([], [], some) == []
    with pytest.raises(RecipeError, match="no operation nonsense"):
        edited.marked([], [], EditsConfig(operations=("nonsense",)))
    named = modules_named(config)
    assert "kontext.data.edited" in named and "kontext.data.operations.turns" in named
    assert "kontext.data.edited" not in modules_named(IngestConfig())


def test_pictures_of_pairs_and_drawn_ones_are_left_alone() -> None:
    def item(ref: str, **more: Any) -> SourceItem:
        return SourceItem("s", ref, "g", "", "MIT", "me", **more)

    items = [item(ref, path=Path(ref)) for ref in ("before", "after", "captioned", "single")]
    items.append(item("drawn", payload=b"png"))
    pairs = [
        GivenPair("s", "1", "after", ("before",), "do it"),
        GivenPair("s", "2", "captioned", (), "a cat"),
    ]
    made = edited.marked(items, pairs, EditsConfig(per_picture=1))
    assert [one.ref for one in made if one.edits] == ["captioned", "single"]
