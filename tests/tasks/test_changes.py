from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from kontext.store.artifacts.artifact_store import ArtifactStore
from kontext.store.objects import ObjectStore, open_store
from schemas.manifest import Manifest
from tasks.changes import CountChange, changes_markdown, dataset_changes
from tasks.watermark import Watermark, read_watermark, write_watermark

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(open_store(f"file://{tmp_path}/store"), tmp_path / "cache")


def _write(
    store: ArtifactStore, stage: str, digest: str, tables: dict[str, pa.Table], **inputs: str
) -> Manifest:
    writer = store.writer(stage, digest)
    for name, table in tables.items():
        writer.add_table(name, table)
    return writer.commit(
        Manifest(
            stage=stage, digest=digest, code_digest="c", config={}, inputs=inputs,
            files=list(writer.files.values()), metrics={}, notes=[], recipe="ci",
            created_at=NOON.isoformat(), seconds=1.0, git_commit="", packages={}, kernels={},
        )
    )  # fmt: skip


def _version(store: ArtifactStore, name: str, images: dict[str, str], pairs: list[str]) -> Manifest:
    """Images as pixel id -> source, in two files; pairs all local and in train."""
    ids = sorted(images)
    parts = {
        f"images/{n}.parquet": pa.table({"pixel_id": [i], "source": [images[i]]})
        for n, i in enumerate(ids)
    }
    _write(store, "ingest", f"i{name}", parts)
    mined = pa.table({"pair_id": pairs, "relation_class": ["local"] * len(pairs)})
    _write(store, "mine", f"m{name}", {"pairs.parquet": mined})
    split = pa.table({"pair_id": pairs[:1], "split": ["train"]})
    _write(store, "shard", f"s{name}", {"splits.parquet": split})
    return _write(
        store, "index", f"x{name}", {}, ingest=f"i{name}", mine=f"m{name}", shard=f"s{name}"
    )


def test_changes_say_what_came_and_went(store: ArtifactStore) -> None:
    before = _version(store, "1", {"a": "emoji", "b": "emoji", "z": "signs"}, ["p", "q"])
    after = _version(store, "2", {"a": "emoji", "c": "emoji", "z": "signs"}, ["p", "q", "r"])
    assert dataset_changes(store, before, after) == [
        CountChange("images", "emoji", 2, 2, 1, 1),  # as many as before, and yet another one
        CountChange("pairs", "local", 2, 3, 1, 0),
    ]
    first = dataset_changes(store, None, before)
    assert [(c.what, c.group, c.added) for c in first] == [
        ("images", "emoji", 2),
        ("images", "signs", 1),
        ("pairs", "local", 2),
        ("accepted pairs", "train", 1),
    ]
    assert "| images | emoji | 0 | 2 | +2 | −0 |" in changes_markdown("demo version 1", first)
    assert "Nothing changed" in changes_markdown("demo", dataset_changes(store, after, after))


def _mark(minutes: int) -> Watermark:
    started = NOON + timedelta(minutes=minutes)
    return Watermark(
        dataset="demo", started=started, finished=started, ingest="i", index="x", version=1
    )


def test_a_watermark_covers_what_was_due_before_it_began_to_read() -> None:
    assert _mark(0).covers(NOON)
    assert _mark(0).covers(NOON - timedelta(days=3))
    assert not _mark(0).covers(NOON + timedelta(seconds=1))


def test_a_watermark_never_moves_back(objects: ObjectStore) -> None:
    assert read_watermark(objects, "demo") is None
    assert write_watermark(objects, _mark(5)) == _mark(5)
    assert write_watermark(objects, _mark(1)) == _mark(5)
    assert read_watermark(objects, "demo") == _mark(5)
    assert write_watermark(objects, _mark(9)) == _mark(9)
    assert read_watermark(objects, "other") is None
