import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pdqhash
import pyarrow as pa
import pytest
import webdataset

from kontext.data.pixels import decode_png, encode_png, pixel_id
from kontext.data.shards.read import load_split
from kontext.data.shards.select import splits_before
from kontext.errors import GateError
from kontext.store.artifacts.artifact_store import Artifact, ArtifactWriter
from schemas.recipes import Recipe
from schemas.sections.data import ShardConfig
from schemas.tables import CAPTIONS, IMAGES, PAIRS, PIXELS, SHARD_MEMBERS, SHARDS, SPLITS
from tests.data.pictures import scene
from tests.stages.stage_harness import Harness, rows_table

GROUPS = 24
IDS = {(g, i): pixel_id(scene(100 * g + i)) for g in range(GROUPS) for i in range(2)}


def image(group: int, index: int) -> dict[str, Any]:
    vector, quality = pdqhash.compute(scene(100 * group + index))
    return {
        "pixel_id": IDS[group, index],
        "group_key": f"group{group:02d}",
        "source": "made",
        "concept": "thing",
        "pdq": np.packbits(vector.astype(bool)).tobytes(),
        "pdq_quality": int(quality),
    }


def pairs() -> list[dict[str, Any]]:
    """Both directions inside every group, and a single for each group."""
    rows = []
    for group in range(GROUPS):
        for name, contexts, target, kind in (
            ("there", [0], 1, "local"),
            ("back", [1], 0, "style"),
            ("single", [], 0, "t2i"),
        ):
            rows.append(
                {
                    "pair_id": hashlib.sha256(f"{group}{name}".encode()).hexdigest(),
                    "context_ids": [IDS[group, i] for i in contexts],
                    "target_id": IDS[group, target],
                    "relation_class": kind,
                    "relation": "color",
                    "params": json.dumps({"attribute": "color", "from": "a", "to": name}),
                    "license_spdx": "MIT",
                    "source": "made",
                }
            )
    return rows


PAIR_ROWS = pairs()


def harness(folder: Path, reject: dict[str, str] | None = None, **options: Any) -> Harness:
    """Inputs of the shard stage. `reject`: pair id -> reason of the screen."""
    refused = reject or {}
    used = Harness(folder, Recipe(name="test", shard=ShardConfig(**options)))

    def ingest(out: ArtifactWriter) -> None:
        keys = list(IDS)
        for part in range(2):
            rows = [image(*key) for key in keys[part::2]]
            pngs = [{"pixel_id": IDS[g, i], "png": encode_png(scene(100 * g + i))} for g, i in keys]
            out.add_table(f"images/{part:03d}.parquet", rows_table(IMAGES, rows))
            out.add_table(f"pixels/{part:03d}.parquet", rows_table(PIXELS, pngs[part::2]))

    captions = [
        {
            "pair_id": row["pair_id"],
            "instruction": f"make it {n}",
            "target_caption": "a thing",
            "status": "malformed" if refused.get(row["pair_id"]) == "caption" else "ok",
        }
        for n, row in enumerate(PAIR_ROWS)
    ]
    kept = [row["pair_id"] for row in PAIR_ROWS if refused.get(row["pair_id"]) != "missing"]
    accepted = pa.table(
        {
            "pair_id": kept,
            "accept": [p not in refused or refused[p] == "caption" for p in kept],
            "reject_reasons": pa.array(
                [[refused[p]] if p in refused else [] for p in kept], pa.list_(pa.string())
            ),
        }
    )
    used.make("ingest", ingest)
    used.make("mine", lambda out: out.add_table("pairs.parquet", rows_table(PAIRS, PAIR_ROWS)))
    used.make(
        "caption", lambda out: out.add_table("captions.parquet", rows_table(CAPTIONS, captions))
    )
    used.make("screen", lambda out: out.add_table("accepted.parquet", accepted))
    return used


def test_all_accepted_pairs_are_in_shards_once(tmp_path: Path) -> None:
    used = harness(tmp_path, max_pairs_per_shard=20, test_fraction=0.2, val_fraction=0.1)
    artifact = used.run("shard")
    splits = artifact.table("splits.parquet")
    shards, members = artifact.table("shards.parquet"), artifact.table("shard_members.parquet")
    assert splits.schema.names == SPLITS.names
    assert shards.schema.names == SHARDS.names and members.schema.names == SHARD_MEMBERS.names
    wanted = sorted(row["pair_id"] for row in PAIR_ROWS)
    assert splits["pair_id"].to_pylist() == wanted
    assert sorted(members["pair_id"].to_pylist()) == wanted
    for row in shards.to_pylist():
        data = artifact.path(row["name"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == row["sha256"]
        assert row["samples"] <= 20 and row["name"].startswith(row["split"])
    paths = [artifact.path(name) for name in artifact.names() if name.endswith(".tar")]
    assert sum(1 for _ in webdataset.WebDataset([str(p) for p in paths], shardshuffle=False)) == 72


def test_splits_keep_groups_whole_and_hold_out_every_class(tmp_path: Path) -> None:
    artifact = harness(tmp_path, test_fraction=0.2, val_fraction=0.1).run("shard")
    seen: dict[str, set[str]] = {}
    for split in ("train", "val", "test"):
        loaded = load_split(artifact, split)
        assert {row.relation_class for row in loaded.rows} == {"local", "style", "t2i"}
        assert {row.split for row in loaded.rows} == {split}
        seen[split] = set(loaded.pixel_ids)
    groups = {pixel: group for (group, _), pixel in IDS.items()}
    held = [{groups[pixel] for pixel in pixels} for pixels in seen.values()]
    assert sum(map(len, held)) == len(set.union(*held)) == GROUPS
    splits = artifact.table("splits.parquet").to_pylist()
    by_component: dict[str, set[str]] = {}
    for row in splits:
        by_component.setdefault(row["component_id"], set()).add(row["split"])
    assert all(len(found) == 1 for found in by_component.values())


def test_samples_carry_text_parameters_and_pixels(tmp_path: Path) -> None:
    artifact = harness(tmp_path).run("shard")
    paths = [artifact.path(name) for name in artifact.names() if name.endswith(".tar")]
    read = webdataset.WebDataset([str(path) for path in paths], shardshuffle=False)
    found = {json.loads(sample["json"])["pair_id"]: sample for sample in read}
    for number, row in enumerate(PAIR_ROWS):
        sample = found[row["pair_id"]]
        record = json.loads(sample["json"])
        assert record["instruction"] == f"make it {number}"
        assert record["params"] == json.loads(row["params"])
        assert record["context_ids"] == row["context_ids"]
        assert record["relation_class"] == row["relation_class"]
        assert pixel_id(decode_png(sample["tgt.png"])) == row["target_id"]
        contexts = [sample[f"ctx{i}.png"] for i in range(len(row["context_ids"]))]
        assert [pixel_id(decode_png(png)) for png in contexts] == row["context_ids"]


def test_rejected_pairs_stay_out_and_are_counted(tmp_path: Path) -> None:
    ids = [row["pair_id"] for row in PAIR_ROWS]
    reject = {ids[0]: "nsfw", ids[1]: "nsfw", ids[2]: "caption", ids[3]: "missing"}
    used = harness(tmp_path, reject)
    artifact = used.run("shard")
    kept = artifact.table("splits.parquet")["pair_id"].to_pylist()
    assert sorted(kept) == sorted(set(ids) - set(reject))
    dropped = {row["reason"]: row["pairs"] for row in used.report.tables["shard-dropped"]}
    assert dropped == {"nsfw": 2, "caption_malformed": 1, "not_screened": 1}
    assert artifact.manifest.metrics["pairs_dropped"] == 4
    table = used.report.tables["shard-splits"]
    assert sum(row["local"] + row["style"] + row["t2i"] for row in table) == len(kept)


def test_a_pair_whose_image_ingest_does_not_hold_is_dropped(tmp_path: Path) -> None:
    used = harness(tmp_path)
    stray = {**PAIR_ROWS[0], "target_id": "f" * 64}
    rows = [stray, *PAIR_ROWS[1:]]
    used.store.objects.delete("runs/mine/hand-made/manifest.json")
    used.make("mine", lambda out: out.add_table("pairs.parquet", rows_table(PAIRS, rows)))
    used.run("shard")
    assert used.report.tables["shard-dropped"] == [{"reason": "image_missing", "pairs": 1}]


def test_same_inputs_same_bytes(tmp_path: Path) -> None:
    first, second = (harness(tmp_path / name).run("shard") for name in "ab")
    assert first.manifest.files == second.manifest.files
    other = harness(tmp_path / "c", seed=7).run("shard")
    assert other.manifest.files != first.manifest.files


def test_nothing_accepted_is_an_error(tmp_path: Path) -> None:
    reject = {row["pair_id"]: "nsfw" for row in PAIR_ROWS}
    with pytest.raises(GateError, match="no pair was accepted"):
        harness(tmp_path, reject).run("shard")


def test_one_large_component_is_noted(tmp_path: Path) -> None:
    used = harness(tmp_path, near_duplicate_bits=31, near_duplicate_l1=1.0)
    table = used.inputs["ingest"].table("images")
    same = table.set_column(
        table.schema.get_field_index("group_key"), "group_key", pa.array(["one"] * len(table))
    )
    used.store.objects.delete("runs/ingest/hand-made/manifest.json")

    def ingest(out: ArtifactWriter) -> None:
        out.add_table("images/000.parquet", same)
        pngs = [{"pixel_id": IDS[k], "png": encode_png(scene(100 * k[0] + k[1]))} for k in IDS]
        out.add_table("pixels/000.parquet", rows_table(PIXELS, pngs))

    used.make("ingest", ingest)
    artifact = used.run("shard")
    assert any("largest connected component holds 100%" in n for n in artifact.manifest.notes)
    assert sum("no held-out" in n for n in artifact.manifest.notes) == 3
    assert len(load_split(artifact, "train").rows) == len(PAIR_ROWS)


def test_a_reference_ties_nothing_together_and_must_lie_in_the_same_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    referring = [
        {
            **PAIR_ROWS[3 * group],
            "pair_id": hashlib.sha256(f"{group}reference".encode()).hexdigest(),
            "context_ids": [IDS[group, 0], IDS[(group + 1) % GROUPS, 1]],
        }
        for group in range(GROUPS)
    ]
    plain = harness(tmp_path / "plain", test_fraction=0.3, val_fraction=0.2).run("shard")
    monkeypatch.setattr(sys.modules[__name__], "PAIR_ROWS", [*PAIR_ROWS, *referring])
    refused = {row["pair_id"]: "missing" for row in (*PAIR_ROWS[:3], referring[0])}
    less = harness(tmp_path / "less", refused, test_fraction=0.3, val_fraction=0.2).run("shard")
    assert IDS[0, 1] in referring[-1]["context_ids"]  # an image of no pair, so of no split
    assert referring[-1]["pair_id"] not in less.table("splits.parquet")["pair_id"].to_pylist()
    made = harness(tmp_path / "more", test_fraction=0.3, val_fraction=0.2).run("shard")
    assert made.manifest.metrics["components"] == plain.manifest.metrics["components"]
    split_of = {row["pair_id"]: row["split"] for row in made.table("splits.parquet").to_pylist()}
    images = {IDS[key]: split_of[PAIR_ROWS[3 * key[0]]["pair_id"]] for key in IDS}
    kept = [row for row in referring if row["pair_id"] in split_of]
    for row in referring:
        same = len({images[i] for i in (*row["context_ids"], row["target_id"])}) == 1
        assert (row in kept) == same
    assert 0 < len(kept) < GROUPS
    assert made.manifest.metrics["pairs_dropped"] == GROUPS - len(kept)


def test_a_later_version_keeps_every_split_and_says_what_it_drops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"test_fraction": 0.2, "val_fraction": 0.1}
    first = harness(tmp_path / "one", **options).run("shard")
    was = {row["pair_id"]: row["split"] for row in first.table("splits.parquet").to_pylist()}
    image_split = {
        IDS[group, i]: was[PAIR_ROWS[3 * group]["pair_id"]]
        for group in range(GROUPS)
        for i in (0, 1)
    }
    held = next(image for image, split in image_split.items() if split == "test")
    trained = next(image for image, split in image_split.items() if split == "train")
    leak = {**PAIR_ROWS[0], "pair_id": "e" * 64, "context_ids": [trained], "target_id": held}
    monkeypatch.setattr(sys.modules[__name__], "PAIR_ROWS", [*PAIR_ROWS, leak])
    plain = harness(tmp_path / "two", seed=5, **options)
    plain.before = [first]
    second = plain.run("shard")
    assert {r["pair_id"]: r["split"] for r in second.table("splits.parquet").to_pylist()} == was
    reason = "between_splits_of_earlier_versions"
    assert plain.report.tables["shard-dropped"] == [{"reason": reason, "pairs": 1}]
    assert second.manifest.metrics[f"dropped/{reason}"] == 1
    kept = {r["pixel_id"]: r["split"] for r in second.table("picture_splits.parquet").to_pylist()}
    assert kept == image_split

    # an artifact of kontext before it kept that table says the same by its shards
    older = first.manifest.model_copy(
        update={"files": [f for f in first.manifest.files if f.name != "picture_splits.parquet"]}
    )
    assert splits_before([Artifact(first._store, older)]) == image_split
    assert splits_before([first, second]) == image_split
