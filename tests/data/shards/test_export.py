"""A dataset for other tools: every format holds all pairs, and our own sources read it again."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows import cli
from kontext.data.pixels import encode_png, pixel_id
from kontext.data.shards.export import FORMATS, export_dataset
from kontext.data.shards.write import ShardSample, ShardSet, write_shards
from kontext.data.sources import read
from kontext.data.sources.found import source_at
from kontext.errors import CatalogError
from kontext.store.artifacts.artifact_store import ArtifactStore
from kontext.store.catalog.catalog import Catalog
from kontext.store.objects import open_store
from tests.store.lake_rows import dataset

PICTURES = [np.full((6, 8, 3), value, np.uint8) for value in (30, 200, 90)]
IMAGES = {pixel_id(picture): encode_png(picture) for picture in PICTURES}
IDS = list(IMAGES)
CONTEXTS = {"edit": 1, "reference": 2, "caption": 0}


def sample(name: str, split: str) -> ShardSample:
    pair_id = hashlib.sha256(f"{name}{split}".encode()).hexdigest()
    record = {
        "pair_id": pair_id, "instruction": f"Mach’s {name}\tbitte", "split": split,
        "relation_class": "local", "context_ids": IDS[1 : 1 + CONTEXTS[name]],
        "target_id": IDS[0], "license_spdx": "MIT",
    }  # fmt: skip
    return ShardSample(pair_id, tuple(record["context_ids"]), IDS[0], record)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of an edit, one with a reference and a caption in each of two splits."""
    folder = tmp_path_factory.mktemp("export")
    objects, shards = open_store(f"file://{folder}/store"), ShardSet()
    writer = ArtifactStore(objects, folder / "cache").writer("shard", "s")
    for split in ("train", "test"):
        samples = [sample(name, split) for name in CONTEXTS]
        write_shards(samples, split, folder, 2, IMAGES.__getitem__, shards)
    for path in shards.paths:
        writer.add_file(path.name, path)
    shard_table, member_table = shards.tables()
    tables = dataset(0, {}) | {"shards": shard_table, "shard_members": member_table}
    Catalog(folder / "catalog.sqlite", objects.url).commit_dataset("mine", "one", tables, {})
    return folder


def export(home: Path, form: str, out: Path, name: str = "mine") -> list[Path]:
    objects = open_store(f"file://{home}/store")
    return export_dataset(Catalog(home / "catalog.sqlite", objects.url), objects, name, form, out)


def test_webdataset_has_the_shards_bytes(home: Path, tmp_path: Path) -> None:
    import webdataset

    made = export(home, "webdataset", tmp_path / "out")
    assert [path.name for path in made] == [
        f"{split}-{number:05d}.tar" for split in ("test", "train") for number in range(2)
    ]
    urls = str(tmp_path / "out" / "train-{00000..00001}.tar")
    rows = list(webdataset.WebDataset(urls, shardshuffle=False))
    texts = sorted(json.loads(row["json"])["instruction"] for row in rows)
    assert texts == sorted(f"Mach’s {name}\tbitte" for name in CONTEXTS)
    assert {row["tgt.png"] for row in rows} == {IMAGES[IDS[0]]}


@pytest.mark.parametrize("form", ["parquet", "imagefolder"])
def test_our_own_sources_read_it_again(home: Path, tmp_path: Path, form: str) -> None:
    export(home, form, tmp_path / "out")
    found: dict[tuple[str, ...], str] = {}
    for split in ("train", "test"):
        where = [tmp_path / "out" / split / part for part in ("edits", "captions")]
        if form == "parquet":
            where = [tmp_path / "out" / f"{split}-{part}.parquet" for part in ("edits", "captions")]
        for path in where:
            planned = read(source_at(str(path)))
            assert not planned.skipped
            bytes_of = {item.ref: item.read() for item in planned.items}
            for pair in planned.pairs:
                shown = [pixel_of(bytes_of[ref]) for ref in (*pair.contexts, pair.target)]
                found[(split, *shown)] = pair.instruction
    assert found == {
        (split, *IDS[1 : 1 + count], IDS[0]): f"Mach’s {name}\tbitte"
        for split in ("train", "test")
        for name, count in CONTEXTS.items()
    }


def test_webdataset_tars_are_read_again_whole(home: Path, tmp_path: Path) -> None:
    export(home, "webdataset", tmp_path / "out")
    planned = read(source_at(str(tmp_path / "out")))
    bytes_of = {item.ref: item.read() for item in planned.items}
    found = sorted(
        [
            pair.instruction,
            pair.kind,
            *(pixel_of(bytes_of[r]) for r in (*pair.contexts, pair.target)),
        ]
        for pair in planned.pairs
    )
    assert found == sorted(
        [f"Mach’s {name}\tbitte", "local", *IDS[1 : 1 + count], IDS[0]]
        for name, count in CONTEXTS.items()
        for _ in ("train", "test")
    )
    assert not planned.skipped and {item.license_spdx for item in planned.items} == {"MIT"}


def pixel_of(png: bytes) -> str:
    return next(pixel for pixel, known in IMAGES.items() if known == png)


def test_parquet_says_which_columns_are_pictures(home: Path, tmp_path: Path) -> None:
    export(home, "parquet", tmp_path / "out")
    file = tmp_path / "out" / "train-edits.parquet"
    about: dict[str, Any] = json.loads(pq.read_schema(file).metadata[b"huggingface"])
    features = about["info"]["features"]
    assert features["source_image"] == {"_type": "Image"}
    assert features["instruction"] == {"_type": "Value", "dtype": "string"}
    assert set(features) == set(pq.read_schema(file).names)


def test_clear_errors(home: Path, tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="dataset nobody has no shards"):
        export(home, "parquet", tmp_path / "a", "nobody")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        export(home, "parquet", tmp_path / "full")
    assert (tmp_path / "full" / "x").read_text() == "mine"


@pytest.mark.parametrize("form", FORMATS)
def test_the_command(
    home: Path, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KONTEXT_HOME", str(home))
    arguments = ["dataset", "export", "mine", "-o", str(tmp_path / "out"), "-f", form, "--json"]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["dataset"] == "mine" and all(Path(file).exists() for file in told["files"])
    again = CliRunner().invoke(cli.app, arguments)
    assert "is not empty" in str(again.exception)
