import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from kontext.errors import CatalogError
from kontext.store.catalog.catalog import Catalog
from kontext.store.catalog.rows import plain_rows, scalar
from kontext.store.lake.connections import attach
from kontext.store.objects import open_store
from kontext.store.parquet import parquet_bytes
from schemas.catalog import DATASET_TABLES, TABLES
from schemas.manifest import Manifest, ManifestFile
from tests.store.lake_rows import dataset, rows

POLICY = {"l1_min": 0.03, "nsfw_max": 0.5}
INPUTS = {"ingest": "i1", "mine": "m1"}
VIEWS = {
    "acceptance",
    "train_pairs",
    "rejected_pairs",
    "safety_summary",
    "pairs_by_category",
    "license_summary",
    "pair_files",
    "stage_runs",
    "lineage",
}


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(tmp_path / "home" / "catalog.sqlite", f"file://{tmp_path}/store")


def manifest(
    stage: str = "mine", digest: str = "m1", inputs: dict[str, str] | None = None
) -> Manifest:
    return Manifest(
        stage=stage,
        digest=digest,
        code_digest="c",
        config={"seed": 1},
        inputs={"ingest": "i1"} if inputs is None else inputs,
        files=[ManifestFile(name="pairs.parquet", sha256="ab", size=10)],
        metrics={"pairs": 3, "loss": 0.5, "kernel": "sdpa", "ok": True, "none": None},
        notes=["it's a note"],
        recipe="ci",
        created_at=datetime.now(UTC).isoformat(),
        seconds=1.5,
        git_commit="abc",
        packages={"torch": "2"},
        kernels={},
    )


def newest_snapshot(catalog: Catalog) -> int:
    with catalog.connect() as connection:
        return scalar(connection, "SELECT id FROM ducklake_current_snapshot('lake')")


def column(catalog: Catalog, sql: str, at: str | int | None = None) -> list[object]:
    return list(catalog.query(sql, at=at).column(0).to_pylist())


def test_nothing_is_there_yet(catalog: Catalog) -> None:
    with pytest.raises(CatalogError, match=r"no catalog at .* yet: run the pipeline first"):
        catalog.query("select 1")
    assert catalog.datasets() == []
    catalog.record(manifest())
    assert column(catalog, "select stage from stage_runs") == ["mine"]
    with pytest.raises(CatalogError, match="no dataset is in the catalog"):
        catalog.query("select category, count(*) from train_pairs group by 1")


def test_views_answer(catalog: Catalog) -> None:
    catalog.record(manifest())
    catalog.commit_dataset("demo", "digest", dataset(10, POLICY), INPUTS, "first")
    # pairs 0..9 have l1 0.00..0.09; p02, p05, p08 are T2I; p04 and p09 are test
    answer = catalog.query("select category, count(*) n from train_pairs group by 1 order by 1")
    assert answer.to_pylist() == [
        {"category": "local", "n": 2},
        {"category": "style", "n": 1},
        {"category": "t2i", "n": 3},
    ]
    assert column(catalog, "select pair_id from rejected_pairs order by 1") == ["p00", "p01"]
    assert column(catalog, "select distinct reason from rejected_pairs") == ["l1_min"]
    per = catalog.query("select * from pairs_by_category where category = 'local'").to_pylist()[0]
    assert per == {"dataset": "demo", "category": "local", "mined": 4, "accepted": 3} | {
        "rejected": 1,
        "train": 2,
        "val": 0,
        "test": 1,
    }
    assert column(catalog, "select sum(accepted_pairs)::int from license_summary") == [8]
    assert column(catalog, "select sum(decisions)::int from safety_summary") == [2]
    run = catalog.query("select * from stage_runs").to_pylist()[0]
    assert (run["stage"], run["files"], run["bytes"], run["notes"]) == (
        ("mine", 1, 10, ["it's a note"])
    )
    edges = catalog.query("select stage, input_stage, input_digest from lineage").to_pylist()
    assert edges == [{"stage": "mine", "input_stage": "ingest", "input_digest": "i1"}]
    metrics = catalog.query("select name, value, text from metrics order by name").to_pylist()
    assert [(m["name"], m["value"], m["text"]) for m in metrics] == [
        ("kernel", None, "sdpa"),
        ("loss", 0.5, ""),
        ("none", None, ""),
        ("ok", 1.0, ""),
        ("pairs", 3.0, ""),
    ]


def test_a_threshold_changes_what_the_views_accept(catalog: Catalog) -> None:
    first = catalog.commit_dataset("demo", "digest", dataset(10, POLICY), INPUTS)
    stricter = {**POLICY, "l1_min": 0.07}
    catalog.commit_dataset("demo", "stricter", dataset(10, stricter), INPUTS)
    assert len(column(catalog, "select pair_id from rejected_pairs")) == 5
    catalog.commit_dataset("demo", "local", dataset(10, {**stricter, "l1_min@local": 0.0}), INPUTS)
    assert len(column(catalog, "select pair_id from rejected_pairs")) == 2
    assert len(column(catalog, "select pair_id from rejected_pairs", at=first.snapshot_id)) == 2
    with pytest.raises(CatalogError, match="no rule reads"):
        catalog.commit_dataset("demo", "misspelt", dataset(10, {"l1_minimum": 0.1}), INPUTS)


def test_versions_answer_as_they_were(catalog: Catalog) -> None:
    one = catalog.commit_dataset("demo", "one", dataset(6, POLICY), INPUTS)
    again = catalog.commit_dataset("demo", "one", dataset(6, POLICY), INPUTS)
    assert (one.version, one.created) == (1, True)
    assert (again.version, again.snapshot_id, again.created) == (1, one.snapshot_id, False)
    other = catalog.commit_dataset("ci", "other", dataset(3, POLICY), INPUTS)
    two = catalog.commit_dataset("demo", "two", dataset(9, POLICY), INPUTS)
    assert (other.version, two.version) == (1, 2)
    assert one.snapshot_id < other.snapshot_id < two.snapshot_id
    count = "select count(*) from pairs where dataset = 'demo'"
    everything = "select count(*) from pairs"
    assert column(catalog, count) == [9] and column(catalog, everything) == [12]
    for at in ("demo@v1", "demo@1", one.snapshot_id, str(one.snapshot_id)):
        assert column(catalog, everything, at=at) == [6]
    assert column(catalog, everything, at="ci@v1") == [9]
    assert column(catalog, count, at="demo@v2") == [9]
    assert len(column(catalog, "select pair_id from train_pairs", at="demo@v1")) == 3
    assert [(d.name, d.version) for d in catalog.datasets()] == [
        ("demo", 1),
        ("ci", 1),
        ("demo", 2),
    ]
    with pytest.raises(CatalogError, match=r"demo@v1 \(\d+\), ci@v1"):
        catalog.query("select 1", at="demo@v7")
    with pytest.raises(CatalogError, match="no snapshot 9999"):
        catalog.query("select 1", at=9999)


def test_rows_may_come_as_parquet_files_and_keep_their_values(
    catalog: Catalog, tmp_path: Path
) -> None:
    tables = dataset(4, POLICY)
    image = {"pixel_id": "x", "pdq": bytes(range(32)), "pdq_quality": 250, "bytes": 2**63}
    parts = []
    for number in range(2):
        parts.append(tmp_path / f"it's {number}.parquet")
        parts[-1].write_bytes(parquet_bytes(rows("images", {**image, "width_px": number})))
    catalog.commit_dataset("demo", "d", {**tables, "images": parts, "rejects": []}, INPUTS)
    found = catalog.query("select * from images order by width_px").to_pylist()
    assert [row["width_px"] for row in found] == [0, 1]
    assert {name: found[1][name] for name in image} == image
    assert column(catalog, "select images from datasets") == [2]


def test_scores_from_before_a_risk_was_known_are_taken_and_its_column_is_null(
    catalog: Catalog,
) -> None:
    tables = dataset(3, {"nsfw_max": 0.5})
    tables["pair_scores"] = tables["pair_scores"].drop_columns(["nudity_max"])
    catalog.commit_dataset("demo", "one", tables, INPUTS)
    with catalog.connect() as connection:
        found = connection.execute("SELECT nudity_max, accept FROM pair_facts").fetchall()
    assert len(found) == 3 and {row[0] for row in found} == {None}
    assert any(accept for _, accept in found)
    tables["pair_scores"] = tables["pair_scores"].drop_columns(["ssim"])
    with pytest.raises(CatalogError):
        catalog.commit_dataset("demo", "two", tables, INPUTS)


def test_members_from_before_their_files_were_known_are_taken(catalog: Catalog) -> None:
    tables = dataset(3, {"nsfw_max": 0.5})
    tables["shard_members"] = tables["shard_members"].drop_columns(["files"])
    catalog.commit_dataset("demo", "one", tables, INPUTS)
    assert column(catalog, "select count(*) from pair_files") == [0]


def test_32_bit_floats_are_the_numbers_people_mean(catalog: Catalog) -> None:
    catalog.record(manifest())
    (row,) = plain_rows(
        catalog.query(
            "select round(0.685::float, 3) as r, [0.1::float, null] as l, {'x': 0.3::float} as s, "
            "map {'k': 0.7::float} as m, 0.1::float + 0.2 as d, 'nan'::float as n, null::float as z"
        )
    )
    assert {k: v for k, v in row.items() if k != "n"} == {
        "r": 0.685, "l": [0.1, None], "s": {"x": 0.3}, "m": [("k", 0.7)],
        "d": row["d"], "z": None,
    }  # fmt: skip
    assert row["n"] != row["n"] and isinstance(row["d"], float)


def test_a_failed_commit_leaves_the_old_version(catalog: Catalog) -> None:
    catalog.commit_dataset("demo", "one", dataset(6, POLICY), INPUTS)
    broken = dataset(9, POLICY) | {"splits": pa.table({"pair_id": ["a"]})}
    with pytest.raises(CatalogError, match="cannot commit"):
        catalog.commit_dataset("demo", "two", broken, INPUTS)
    lacking = dataset(9, POLICY)
    del lacking["shards"]
    with pytest.raises(CatalogError, match="lacks the tables shards"):
        catalog.commit_dataset("demo", "two", lacking, INPUTS)
    with pytest.raises(CatalogError, match="no rule reads"):
        catalog.commit_dataset("demo", "two", dataset(2, {"typo": 1.0}), INPUTS)
    assert column(catalog, "select count(*) from pairs") == [6]
    assert len(catalog.datasets()) == 1


def test_queries_cannot_write_and_errors_are_ours(catalog: Catalog) -> None:
    catalog.record(manifest())
    for sql in ("delete from runs", "create table t (a int)", "drop view lineage"):
        with pytest.raises(CatalogError):
            catalog.query(sql)
    assert column(catalog, "select count(*) from runs") == [1]
    with pytest.raises(CatalogError, match="syntax error"):
        catalog.query("selec 1")
    with pytest.raises(CatalogError, match="longer than"):
        catalog.query("select count(*) from range(10000000) a, range(10000000) b", timeout=0.3)


def test_a_stage_is_recorded_once(catalog: Catalog) -> None:
    assert catalog.record(manifest()) is True
    assert catalog.record(manifest()) is False
    assert catalog.record(manifest("mine", "m2", {})) is True
    assert column(catalog, "select count(*) from runs") == [2]
    assert column(catalog, "select count(*) from artifacts") == [2]


def test_recording_attaches_the_lake_once(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attaching loads the lake's schema, which is most of what a record costs."""
    catalog.record(manifest())
    attached: list[bool] = []

    def counted(*arguments: Any, read_only: bool, **options: Any) -> Any:
        attached.append(read_only)
        return attach(*arguments, read_only=read_only, **options)

    monkeypatch.setattr("kontext.store.catalog.catalog.attach", counted)
    assert catalog.record(manifest("mine", "m2")) and not catalog.record(manifest("mine", "m2"))
    assert attached == [False, False]


def test_tables_are_described(catalog: Catalog) -> None:
    catalog.commit_dataset("demo", "one", dataset(6, POLICY), INPUTS)
    described = {info.name: info for info in catalog.tables()}
    assert set(TABLES) | VIEWS <= set(described)
    assert {name for name, info in described.items() if info.kind == "view"} == VIEWS
    assert all(info.comment for info in described.values())
    pairs = described["pairs"]
    assert pairs.rows == 6 and pairs.comment.startswith("Directed pairs")
    comments = {name: comment for name, _, comment in pairs.columns}
    assert comments["target_id"] == "pixel id of the target image"
    for name in DATASET_TABLES:
        assert all(comment for _, _, comment in described[name].columns), name


def test_migrate_is_idempotent_and_updates_views(catalog: Catalog) -> None:
    catalog.migrate()
    before = newest_snapshot(catalog)
    Catalog(catalog.path, catalog._data.removesuffix("catalog/")).migrate()
    assert newest_snapshot(catalog) == before


def test_a_catalog_of_earlier_code_gets_the_new_columns(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = DATASET_TABLES["pair_scores"]
    before = now.remove(now.get_field_index("clip_i"))
    with monkeypatch.context() as earlier:
        earlier.setitem(TABLES, "pair_scores", before)
        earlier.setitem(DATASET_TABLES, "pair_scores", before)
        catalog.commit_dataset("demo", "one", dataset(2, POLICY), INPUTS)
    assert "clip_i" not in catalog.query("select * from pair_scores").column_names
    again = Catalog(catalog.path, catalog._data.removesuffix("catalog/"))
    again.commit_dataset("ci", "one", dataset(2, POLICY), INPUTS)
    found = catalog.query("select dataset, max(clip_i) c from pair_scores group by 1 order by 1")
    assert found["c"].to_pylist() == [0.0, None]
    (described,) = (table for table in catalog.tables() if table.name == "pair_scores")
    columns = {name: comment for name, _, comment in described.columns}
    assert columns["clip_i"].startswith("image-image cosine")


def test_another_store_is_refused(catalog: Catalog, tmp_path: Path) -> None:
    catalog.migrate()
    with pytest.raises(CatalogError, match="cannot open the catalog"):
        Catalog(catalog.path, f"file://{tmp_path}/elsewhere").query("select 1")


def record_many(path: str, store: str, first: int) -> int:
    found = Catalog(path, store)
    return sum(found.record(manifest("mine", f"m{n}")) for n in range(first, first + 4))


def test_concurrent_recorders_lose_nothing(catalog: Catalog, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    store = f"file://{tmp_path}/store"
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        jobs = [pool.submit(record_many, str(catalog.path), store, n) for n in (0, 2)]
        assert sum(job.result() for job in jobs) == 6
    assert column(catalog, "select count(*) from runs") == [6]


@pytest.mark.s3
def test_the_lake_may_live_in_s3(s3_url: str, tmp_path: Path) -> None:
    store = open_store(s3_url)
    catalog = Catalog(tmp_path / "catalog.sqlite", store.url)
    one = catalog.commit_dataset("demo", "one", dataset(60, POLICY), INPUTS)
    catalog.commit_dataset("demo", "two", dataset(90, POLICY), INPUTS)
    assert column(catalog, "select count(*) from pairs") == [90]
    assert column(catalog, "select count(*) from pairs", at=one.snapshot_id) == [60]
    assert any(key.endswith(".parquet") for key in store.list("catalog/"))
