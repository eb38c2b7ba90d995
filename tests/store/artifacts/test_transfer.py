"""Exports, imports, comparisons, and what garbage collection must leave alone."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kontext.errors import ArtifactError
from kontext.store.artifacts.archive import open_exported, write_archive
from kontext.store.artifacts.artifact_store import ArtifactStore, blob_key
from kontext.store.artifacts.diff import Change, diff
from kontext.store.artifacts.garbage import collect_garbage
from kontext.store.artifacts.transfer import copy_artifacts
from kontext.store.objects import ObjectStore, open_store
from schemas.manifest import Manifest

OLD = datetime.now(UTC) - timedelta(days=30)


def make(store: ArtifactStore, stage: str, digest: str, **given: object) -> Manifest:
    writer = store.writer(stage, digest)
    writer.add_bytes("file", f"{stage} {digest}".encode())
    writer.add_bytes("shared", b"the same in all")
    created = given.pop("created", datetime.now(UTC))
    assert isinstance(created, datetime)
    base: dict[str, object] = {
        "stage": stage,
        "digest": digest,
        "code_digest": "c",
        "config": {},
        "inputs": {},
        "files": [writer.files[name] for name in sorted(writer.files)],
        "metrics": {},
        "notes": [],
        "recipe": "test",
        "created_at": created.isoformat(),
        "seconds": 0,
        "git_commit": "",
        "packages": {},
        "kernels": {},
    }
    return writer.commit(Manifest.model_validate({**base, **given}))


@pytest.fixture
def source(objects: ObjectStore, tmp_path: Path) -> ArtifactStore:
    store = ArtifactStore(objects, tmp_path / "cache")
    make(store, "ingest", "i1")
    make(store, "mine", "m1", inputs={"ingest": "i1"})
    make(store, "mine", "m2", inputs={"ingest": "i1"})
    make(store, "shard", "s1", inputs={"ingest": "i1", "mine": "m1"})
    store.tag("dataset@demo", "shard", "s1")
    store.tag("latest/mine", "mine", "m2")
    return store


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.s3)])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    url = f"file://{tmp_path}/target"
    if request.param == "s3":
        url = request.getfixturevalue("s3_url")
    return ArtifactStore(open_store(url), tmp_path / "target-cache")


def manifests(store: ArtifactStore) -> dict[str, bytes]:
    keys = [key for key in store.objects.list("runs/") if key.endswith("manifest.json")]
    return {key: store.objects.get(key) for key in keys}


def test_an_export_holds_an_artifact_and_all_it_needs(
    source: ArtifactStore, target: ArtifactStore
) -> None:
    done = copy_artifacts(source, target, "shard/s1")
    assert done.artifacts == (("ingest", "i1"), ("mine", "m1"), ("shard", "s1"))
    assert (done.present, done.blobs) == (0, 4)  # three files and the shared one, once
    assert manifests(target) == {k: v for k, v in manifests(source).items() if "m2" not in k}
    assert target.tags() == {"dataset@demo": ("shard", "s1")}
    assert target.verify().problems == () and target.verify().files == 6
    again = copy_artifacts(source, target, "dataset@demo")
    assert (again.present, again.blobs, again.bytes) == (3, 0, 0)
    assert len(copy_artifacts(source, target).artifacts) == 4  # everything
    assert manifests(target) == manifests(source)


def test_a_tar_goes_there_and_comes_back_the_same(source: ArtifactStore, tmp_path: Path) -> None:
    tars = []
    for name in ("one", "two"):
        folder = tmp_path / name
        copy_artifacts(
            source, ArtifactStore(open_store(f"file://{folder}"), tmp_path / "c"), "mine/m1"
        )
        tars.append(tmp_path / f"{name}.tar")
        write_archive(folder, tars[-1])
    assert tars[0].read_bytes() == tars[1].read_bytes()
    home = ArtifactStore(open_store(f"file://{tmp_path}/home"), tmp_path / "home-cache")
    with open_exported(str(tars[0]), tmp_path / "scratch") as exported:
        copy_artifacts(exported, home)
    assert not list((tmp_path / "scratch").iterdir())
    assert home.verify().problems == () and len(home.list()) == 2
    (tmp_path / "bad.tar").write_bytes(b"no tar at all")
    with (
        pytest.raises(ArtifactError, match="cannot read"),
        open_exported(str(tmp_path / "bad.tar"), tmp_path),
    ):
        pass


def test_damage_and_gaps_stop_an_export(source: ArtifactStore, tmp_path: Path) -> None:
    target = ArtifactStore(open_store(f"file://{tmp_path}/target"), tmp_path / "c")
    key = blob_key(source.show("mine/m1").manifest.file("file").sha256)
    good = source.objects.get(key)
    source.objects.put(key, good[::-1])
    with pytest.raises(ArtifactError, match="damaged"):
        copy_artifacts(source, target, "mine/m1")
    assert not target.exists("mine", "m1") and target.verify().problems == ()
    source.objects.put(key, good)
    source.objects.delete("runs/ingest/i1/manifest.json")
    with pytest.raises(ArtifactError, match="was made from ingest/i1"):
        copy_artifacts(source, target, "mine/m1")


def test_diff_names_recipe_data_code_and_figures(source: ArtifactStore) -> None:
    make(source, "ingest", "i2", config={"seed": 2, "inner": {"a": 1}}, code_digest="d")
    make(source, "mine", "m3", inputs={"ingest": "i2"}, metrics={"pairs": 3}, packages={"x": "1"})
    found = diff(source, "mine/m1", "mine/m3")
    assert found.recipe == (Change("ingest.inner.a", None, 1), Change("ingest.seed", None, 2))
    assert found.metrics == (Change("pairs", None, 3),)
    assert found.code == (Change("ingest", "c", "d"), Change("package:x", None, "1"))
    assert [change.name for change in found.data] == ["ingest", "mine:file"]
    same = diff(source, "mine/m1", "mine/m1")
    assert not (same.recipe or same.data or same.code or same.metrics)


def test_gc_keeps_what_versions_and_younger_artifacts_need(
    objects: ObjectStore, tmp_path: Path
) -> None:
    store = ArtifactStore(objects, tmp_path / "cache")
    for digest in ("old", "versioned", "used"):
        make(store, "ingest", digest, created=OLD)
    make(store, "mine", "young", inputs={"ingest": "used"})
    plan = collect_garbage(store, dry_run=True, keep={("ingest", "versioned")})
    assert plan.artifacts == (("ingest", "old"),)
    assert (
        collect_garbage(store, dry_run=False, keep={("ingest", "versioned")}).artifacts
        == plan.artifacts
    )
    left = {f"{m.stage}/{m.digest}" for m in store.list()}
    assert left == {"ingest/versioned", "ingest/used", "mine/young"}
    assert store.verify().problems == ()


def test_gc_clears_writes_that_were_cut_off(objects: ObjectStore, tmp_path: Path) -> None:
    import os

    store = ArtifactStore(objects, tmp_path / "cache")
    partial = tmp_path / "store" / ".kontext-tmp" / "tmpabc"
    partial.write_bytes(b"half")
    assert collect_garbage(store, dry_run=False).unfinished == 0  # it may still be written
    os.utime(partial, (OLD.timestamp(), OLD.timestamp()))
    assert collect_garbage(store, dry_run=True).unfinished == 1 and partial.exists()
    assert collect_garbage(store, dry_run=False).unfinished == 1 and not partial.exists()
