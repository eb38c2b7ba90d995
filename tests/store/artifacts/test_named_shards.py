"""Shards lie under names that other tools read, and every part of the store knows them."""

import hashlib
import json
import os
import sys
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from typer.testing import CliRunner

from flows import cli
from kontext.data.pixels import encode_png, pixel_id
from kontext.data.shards.write import ShardSample, ShardSet, write_shards
from kontext.store.artifacts.archive import open_exported, write_archive
from kontext.store.artifacts.artifact_store import ArtifactStore, blob_key
from kontext.store.artifacts.garbage import collect_garbage
from kontext.store.artifacts.named_shards import named_in, ranges
from kontext.store.artifacts.transfer import copy_artifacts
from kontext.store.catalog.catalog import Catalog
from kontext.store.catalog.export import export_version
from kontext.store.objects import ObjectStore, open_store
from schemas.manifest import Manifest
from tests.store.lake_rows import dataset

PICTURE = np.full((8, 8, 3), 90, np.uint8)
PIXELS, PNG = pixel_id(PICTURE), encode_png(PICTURE)
PREFIX = "datasets/mine/v1/"


def sample(number: int, split: str) -> ShardSample:
    pair_id = hashlib.sha256(f"{number}{split}".encode()).hexdigest()
    record = {"pair_id": pair_id, "instruction": f"edit {number}", "split": split}
    return ShardSample(pair_id, (PIXELS,), PIXELS, {**record, "context_ids": [PIXELS]})


class Made:
    """A store with one dataset version: three train shards of two pairs, one test shard."""

    def __init__(self, folder: Path, url: str) -> None:
        self.objects: ObjectStore = open_store(url)
        self.store = ArtifactStore(self.objects, folder / "cache")
        self.catalog = Catalog(folder / "catalog.sqlite", self.objects.url)
        writer, shards = self.store.writer("shard", "s1"), ShardSet()
        for split, pairs in (("train", 6), ("test", 2)):
            samples = [sample(number, split) for number in range(pairs)]
            write_shards(samples, split, folder, 2, lambda _: PNG, shards)
        for path in shards.paths:
            writer.add_file(path.name, path)
        self.manifest = writer.commit(manifest(list(writer.files.values())))
        shard_table, member_table = shards.tables()
        self.sha256 = {row["name"]: row["sha256"] for row in shards.shards}
        tables = dataset(0, {}) | {"shards": shard_table, "shard_members": member_table}
        self.version = self.catalog.commit_dataset("mine", "one", tables, {"shard": "s1"})
        export_version(self.catalog, self.objects, self.version)


def manifest(files: list[Any], created: datetime | None = None) -> Manifest:
    return Manifest(
        stage="shard", digest="s1", code_digest="c", config={}, inputs={}, files=files, metrics={},
        notes=[], recipe="test", created_at=(created or datetime.now(UTC)).isoformat(), seconds=0,
        git_commit="", packages={}, kernels={},
    )  # fmt: skip


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.s3)])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    file = f"file://{tmp_path}/store"
    return Made(tmp_path, request.getfixturevalue("s3_url") if request.param == "s3" else file)


def test_names_hold_the_bytes_of_the_blobs(made: Made) -> None:
    keys = [f"{PREFIX}shards/train-{n:06d}.tar" for n in range(3)]
    assert made.objects.list(f"{PREFIX}shards/") == [f"{PREFIX}shards/test-000000.tar", *keys]
    for number, key in enumerate(keys):
        blob = made.objects.get(blob_key(made.sha256[f"train-{number:05d}.tar"]))
        assert made.objects.get(key) == blob
    about = json.loads(made.objects.get(f"{PREFIX}version.json"))
    assert about["shards"]["train-000001.tar"]["samples"] == 2
    assert ranges(about["shards"]) == {
        "test": "test-000000.tar", "train": "train-{000000..000002}.tar"
    }  # fmt: skip


def test_webdataset_reads_them_where_they_lie(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = (str(Path(sys.executable).parent), os.environ["PATH"])
    monkeypatch.setenv("PATH", os.pathsep.join(programs))  # this environment's own `aws`
    url = made.objects.url + f"/{PREFIX}shards/train-{{000000..000002}}.tar"
    if url.startswith("s3://"):
        url = f"pipe:aws s3 cp --quiet {url} -"
    read = webdataset.WebDataset(url, shardshuffle=False, empty_check=False)
    samples = list(read)
    assert sorted(json.loads(s["json"])["instruction"] for s in samples) == [
        f"edit {number}" for number in range(6)
    ]
    assert {s["tgt.png"] for s in samples} == {s["ctx0.png"] for s in samples} == {PNG}


def test_a_name_costs_no_bytes_in_a_folder(tmp_path: Path) -> None:
    made = Made(tmp_path, f"file://{tmp_path}/store")
    blob = made.objects.local_path(blob_key(made.sha256["train-00000.tar"]))
    name = made.objects.local_path(f"{PREFIX}shards/train-000000.tar")
    assert blob is not None and name is not None and blob.samefile(name)
    export_version(made.catalog, made.objects, made.version)
    made.objects.copy(blob_key(made.sha256["train-00000.tar"]), f"{PREFIX}shards/train-000000.tar")
    assert blob.samefile(name) and blob.stat().st_nlink == 2  # nothing is left over
    # a tar file of the store holds the bytes once
    write_archive(tmp_path / "store", tmp_path / "store.tar")
    with tarfile.open(tmp_path / "store.tar") as tar:
        assert sum(member.islnk() for member in tar) == 4
    with open_exported(str(tmp_path / "store.tar"), tmp_path / "scratch") as found:
        assert found.objects.get(f"{PREFIX}shards/train-000000.tar") == blob.read_bytes()


def test_a_version_from_before_names_gets_them_and_another_catalogs_are_replaced(
    made: Made,
) -> None:
    about = json.loads(made.objects.get(f"{PREFIX}version.json"))
    made.objects.delete(f"{PREFIX}shards/train-000000.tar")
    made.objects.put(f"{PREFIX}shards/train-000009.tar", b"of another catalog")
    for change in ({"dataset_digest": "another"}, {"shards": None}):
        other = {key: value for key, value in {**about, **change}.items() if value is not None}
        made.objects.put(f"{PREFIX}version.json", json.dumps(other).encode())
        export_version(made.catalog, made.objects, made.version)
        assert json.loads(made.objects.get(f"{PREFIX}version.json")) == about
        assert len(made.objects.list(f"{PREFIX}shards/")) == 4


def test_a_shard_that_is_gone_has_no_name(made: Made) -> None:
    made.objects.delete(blob_key(made.sha256["train-00001.tar"]))
    made.objects.delete(f"{PREFIX}version.json")
    export_version(made.catalog, made.objects, made.version)
    names = ["test-000000.tar", "train-000000.tar", "train-000002.tar"]
    assert sorted(named_in(made.objects, PREFIX)) == names


def test_garbage_collection_keeps_names_in_use_and_removes_the_others(made: Made) -> None:
    none = timedelta(0)
    keep = made.catalog.referenced()
    kept = collect_garbage(made.store, dry_run=False, grace=none, keep=keep)
    assert kept.objects == () and len(made.objects.list(f"{PREFIX}shards/")) == 4
    found = collect_garbage(made.store, dry_run=False, grace=none)  # no catalog knows it
    assert len(found.objects) == 8 and made.objects.list(f"{PREFIX}shards/") == []
    assert not made.objects.list("blobs/")


def test_a_copy_to_another_store_has_the_names(made: Made, tmp_path: Path) -> None:
    target = ArtifactStore(open_store(f"file://{tmp_path}/target"), tmp_path / "other")
    copy_artifacts(made.store, target)
    key = f"{PREFIX}shards/train-000002.tar"
    assert target.objects.get(key) == made.objects.get(key)
    assert named_in(target.objects, PREFIX) == named_in(made.objects, PREFIX)
    # a version that the target has under the same name is not touched
    target.objects.put(f"{PREFIX}version.json", b"{}")
    copy_artifacts(made.store, target)
    assert target.objects.get(f"{PREFIX}version.json") == b"{}"


def test_the_command_prints_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Made(tmp_path, f"file://{tmp_path}/store")
    monkeypatch.setenv("KONTEXT_HOME", str(tmp_path))
    monkeypatch.setenv("KONTEXT_STORE", f"file://{tmp_path}/store")
    done = CliRunner().invoke(cli.app, ["dataset", "urls", "mine@v1"])
    assert done.exit_code == 0, done.output
    folder = f"file://{tmp_path}/store/{PREFIX}shards"
    assert done.stdout.split() == [
        f"{folder}/test-000000.tar",
        f"{folder}/train-{{000000..000002}}.tar",
    ]
