import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kontext.errors import ArtifactError
from kontext.store.artifacts.artifact_store import (
    Artifact,
    ArtifactStore,
    blob_key,
    own_key,
    work_prefix,
)
from kontext.store.artifacts.garbage import collect_garbage
from kontext.store.artifacts.lineage import flowchart, lineage, reduced_edges
from kontext.store.objects import ObjectStore, open_store
from kontext.store.parquet import parquet_bytes, read_parquet
from schemas.manifest import Manifest

ROWS = pa.table({"id": ["a", "b", "c"], "n": [1, 2, 3]})


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.s3)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    if request.param == "file":
        objects = open_store(f"file://{tmp_path}/objects")
    else:
        objects = open_store(request.getfixturevalue("s3_url"))
    return ArtifactStore(objects, tmp_path / "cache")


@pytest.fixture
def local(objects: ObjectStore, tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(objects, tmp_path / "cache")


def make(
    store: ArtifactStore,
    stage: str,
    digest: str,
    inputs: dict[str, str] | None = None,
    files: dict[str, bytes] | None = None,
    created: datetime | None = None,
) -> Manifest:
    writer = store.writer(stage, digest)
    for name, data in (files or {"file": f"{stage} {digest}".encode()}).items():
        writer.add_bytes(name, data)
    return writer.commit(manifest_of(writer, inputs or {}, created))


def manifest_of(writer: object, inputs: dict[str, str], created: datetime | None) -> Manifest:
    return Manifest(
        stage=writer.stage,
        digest=writer.digest,
        code_digest="c",
        config={},
        inputs=inputs,
        files=[writer.files[name] for name in sorted(writer.files)],
        metrics=writer.metrics,
        notes=writer.notes,
        recipe="test",
        created_at=(created or datetime.now(UTC)).isoformat(),
        seconds=0,
        git_commit="",
        packages={},
        kernels={},
    )


def test_what_was_written_comes_back(store: ArtifactStore, tmp_path: Path) -> None:
    writer = store.writer("mine", "d1")
    writer.add_table("images/000.parquet", ROWS)
    writer.add_table("images/001.parquet", ROWS)
    writer.add_json("counts.json", {"b": 1, "a": [1.5, None]})
    file = tmp_path / "weights"
    file.write_bytes(bytes(range(256)))
    writer.add_file("weights.safetensors", file)
    assert not store.exists("mine", "d1")  # nothing exists before its manifest
    writer.commit(manifest_of(writer, {}, None))

    artifact = store.open("mine", "d1")
    assert artifact.names("images/") == ["images/000.parquet", "images/001.parquet"]
    assert artifact.table("images").num_rows == artifact.table("images/").num_rows == 6
    assert artifact.table("images/000.parquet").equals(ROWS)
    assert artifact.json("counts.json") == {"a": [1.5, None], "b": 1}
    assert artifact.path("weights.safetensors").read_bytes() == bytes(range(256))
    with pytest.raises(ArtifactError, match="no file 'other'"):
        artifact.path("other")
    with pytest.raises(ArtifactError, match="no table 'other'"):
        artifact.table("other")


def test_the_manifest_is_written_last_and_never_rewritten(local: ArtifactStore) -> None:
    written: list[str] = []
    put = local.objects.put
    local.objects.put = lambda key, data, **kw: (written.append(key), put(key, data, **kw))[1]
    first = make(local, "mine", "d1")
    assert written[-1] == "runs/mine/d1/manifest.json" and written[0].startswith("blobs/")
    second = make(local, "mine", "d1", files={"other": b"other"})
    assert second == first and local.open("mine", "d1").names() == ["file"]


def test_references(local: ArtifactStore) -> None:
    for stage, digest in (("mine", "ab12"), ("mine", "ab34"), ("shard", "cd56")):
        make(local, stage, digest)
    local.tag("latest/mine", "mine", "ab12")
    local.tag("dataset@demo", "shard", "cd56")
    assert local.resolve("mine/ab34") == ("mine", "ab34")
    assert local.resolve("mine/ab3") == ("mine", "ab34")
    assert local.resolve("cd") == ("shard", "cd56")
    assert local.resolve("dataset@demo") == ("shard", "cd56")
    assert local.resolve("mine") == ("mine", "ab12")
    with pytest.raises(ArtifactError, match="ambiguous: mine/ab12, mine/ab34"):
        local.resolve("ab")
    for unknown in ("zz", "shard", "", "mine/", "../x", "shard/ab"):
        with pytest.raises(ArtifactError, match="no artifact, tag or stage"):
            local.resolve(unknown)
    local.tag("latest/mine", "mine", "ab34")  # movable
    assert local.resolve("mine") == ("mine", "ab34")
    assert [m.digest for m in local.list("mine")] == ["ab12", "ab34"]
    with pytest.raises(ArtifactError, match="no such artifact"):
        local.tag("x", "mine", "nope")
    local.untag("dataset@demo")
    assert "dataset@demo" not in local.tags()
    with pytest.raises(ArtifactError, match="no tag"):
        local.untag("dataset@demo")


def test_verify_finds_a_flipped_byte_a_missing_and_a_short_file(local: ArtifactStore) -> None:
    good = make(local, "ingest", "d0", files={"a": b"fine", "b": b"also fine"})
    bad = make(local, "mine", "d1", files={"a": b"flipped" * 9, "b": b"missing", "c": b"short"})
    checked = local.verify()
    assert (checked.artifacts, checked.files, checked.problems) == (2, 5, ())
    flip(local, bad, "a")
    local.objects.delete(blob_key(bad.file("b").sha256))
    local.objects.put(blob_key(bad.file("c").sha256), b"shor")
    found = {(p.ref, p.file): p.problem for p in local.verify().problems}
    assert found == {
        ("mine/d1", "a"): "bytes do not match the SHA-256",
        ("mine/d1", "b"): "missing",
        ("mine/d1", "c"): "4 bytes instead of 5",
    }
    assert local.verify("ingest/d0").problems == () and good.file("a").size == 4
    with pytest.raises(ArtifactError, match="damaged"):
        local.open("mine", "d1").path("a")
    with pytest.raises(ArtifactError, match=r"^the bytes of 'b' are gone: no object "):
        local.open("mine", "d1").path("b")


def test_bytes_that_go_while_they_are_looked_for_are_said_to_be_gone(
    local: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A garbage collection may come between."""
    make(local, "mine", "d1")
    monkeypatch.setattr(local.objects, "local_path", lambda key: tmp_path / "gone")
    with pytest.raises(ArtifactError, match=r"^the bytes of 'file' are gone: no /.+/gone\Z"):
        local.open("mine", "d1").path("file")


def flip(store: ArtifactStore, manifest: Manifest, name: str) -> None:
    key = blob_key(manifest.file(name).sha256)
    data = bytearray(store.objects.get(key))
    data[3] ^= 1
    store.objects.put(key, bytes(data))


@pytest.mark.s3
def test_a_damaged_remote_blob_is_not_cached(s3_url: str, tmp_path: Path) -> None:
    store = ArtifactStore(open_store(s3_url), tmp_path / "cache")
    manifest = make(store, "mine", "d1", files={"a": b"some bytes"})
    flip(store, manifest, "a")
    with pytest.raises(ArtifactError, match="damaged"):
        store.open("mine", "d1").path("a")
    make(store, "mine", "d2", files={"b": b"some bytes"})
    store.objects.put(blob_key(manifest.file("a").sha256), b"some bytes")
    path = store.open("mine", "d1").path("a")
    assert path.read_bytes() == b"some bytes" and path.is_relative_to(tmp_path / "cache")


def test_edges_that_a_longer_path_implies_are_not_drawn() -> None:
    inputs = {"a": (), "b": ("a",), "c": ("a", "b"), "d": ("b", "c", "elsewhere")}
    assert reduced_edges(inputs) == [("a", "b"), ("b", "c"), ("c", "d")]


def test_flowcharts_quote_labels_and_keep_classes_outside() -> None:
    text = flowchart({"a": "x@1", "b:::done": "y"}, [("a", "b")], "LR")
    assert text == 'flowchart LR\n  a["x@1"]\n  b["y"]:::done\n  a --> b\n'


def test_lineage_goes_up_and_down_and_draws(local: ArtifactStore) -> None:
    make(local, "ingest", "i1")
    make(local, "mine", "m1", {"ingest": "i1"})
    make(local, "mine", "m2", {"ingest": "i1"})
    make(local, "caption", "c1", {"ingest": "i1", "mine": "m1"})
    make(local, "screen", "s1", {"caption": "c1"})
    found = lineage(local, "mine/m1")
    assert {n.digest for n in found.nodes} == {"i1", "m1", "c1", "s1"}
    assert (("mine", "m1"), ("caption", "c1")) in found.edges and len(found.edges) == 4
    lines = found.mermaid.splitlines()
    assert lines[0] == "flowchart TD"
    assert sum('["' in line for line in lines) == 4 and sum("-->" in line for line in lines) == 4


def test_gc_keeps_what_tags_need(local: ArtifactStore) -> None:
    old = datetime.now(UTC) - timedelta(days=30)
    make(local, "ingest", "i1", created=old)
    make(local, "mine", "m1", {"ingest": "i1"}, created=old)
    make(local, "mine", "m2", {"ingest": "i1"}, created=old)
    make(local, "mine", "m3", {"ingest": "i1"})
    local.objects.put(work_prefix("mine", "m9") + "/000000-x/done.json", b"{}")
    for digest in ("m1", "m2"):
        local.objects.put(own_key("mine", digest), b"{}")
    local.tag("latest/mine", "mine", "m1")
    age(local, 30)
    plan = collect_garbage(local, dry_run=True)
    assert plan.artifacts == (("mine", "m2"),) and len(plan.objects) == 2
    assert local.exists("mine", "m2") and local.verify().problems == ()
    assert collect_garbage(local, dry_run=False) == plan
    assert {m.digest for m in local.list()} == {"i1", "m1", "m3"}
    assert local.verify().problems == () and collect_garbage(local).objects == ()
    for gone in ("m2", "m9"):
        assert not local.objects.list(f"runs/mine/{gone}/")
    assert local.objects.exists(own_key("mine", "m1"))


def age(store: ArtifactStore, days: float) -> None:
    for key in store.objects.list():
        path = store.objects.local_path(key)
        assert path is not None
        moment = path.stat().st_mtime - days * 86400
        os.utime(path, (moment, moment))


def test_an_old_equal_blob_counts_as_used_again(local: ArtifactStore) -> None:
    make(local, "mine", "m1", files={"a": b"shared"})
    age(local, 30)
    writer = local.writer("mine", "m2")  # still running: no manifest protects the blob yet
    writer.add_bytes("a", b"shared")
    local.objects.delete("runs/mine/m1/manifest.json")
    assert collect_garbage(local, dry_run=False).objects == ()


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.text(max_size=5), st.integers(-9, 9), st.binary(max_size=9))),
    st.integers(0, 5),
)
def test_parquet_round_trips_whatever_the_chunking(
    rows: list[tuple[str, int, bytes]], cut: int
) -> None:
    names, numbers, blobs = ([row[i] for row in rows] for i in range(3))
    table = pa.table(
        {
            "s": pa.array(names, pa.string()),
            "n": pa.array(numbers, pa.int64()),
            "b": pa.array(blobs, pa.binary()),
        }
    )
    data = parquet_bytes(table)
    assert read_parquet(data).equals(table)
    assert parquet_bytes(pa.concat_tables([table[:cut], table[cut:]])) == data


def test_parquet_is_zstd_in_fixed_groups_without_pandas_metadata() -> None:
    table = pa.table({"n": list(range(70_000))}).replace_schema_metadata(
        {b"pandas": b"x", b"comment": b"kept"}
    )
    file = pq.ParquetFile(pa.BufferReader(parquet_bytes(table)))
    assert file.metadata.num_row_groups == 2
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    assert file.schema_arrow.metadata == {b"comment": b"kept"}


def test_an_artifact_is_an_artifact_reader(local: ArtifactStore) -> None:
    make(local, "mine", "m1")
    artifact = local.show("mine/m1")
    assert isinstance(artifact, Artifact) and repr(artifact) == "Artifact(mine/m1)"
