"""docs/sql.md: its ten questions and its prelude do what the page says; `--at` and readers too."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from benchmarks.catalog import commit_beside_readers, generate, questions, record_runs
from kontext.errors import CatalogError
from kontext.store.catalog.catalog import Catalog
from kontext.store.catalog.export import export_version
from kontext.store.catalog.versions import find_version
from kontext.store.lake.connections import prelude
from kontext.store.objects import open_store

PAIRS = 1200


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"file://{tmp_path_factory.mktemp('questions')}/store"


@pytest.fixture(scope="module")
def catalog(store: str) -> Catalog:
    """Two versions of one dataset, made as the benchmark makes its ten million pairs."""
    folder = Path(store.removeprefix("file://")).parent
    found = Catalog(folder / "catalog.sqlite", store)
    for number, pairs in enumerate((600, PAIRS)):
        tables = generate(pairs, folder / "files" / str(number))
        found.commit_dataset("demo", f"v{number}", tables, {"ingest": "i1", "mine": "m1"})
    record_runs(found, {"ingest": "i1", "mine": "m1"})
    return found


@pytest.fixture(scope="module")
def answers(catalog: Catalog) -> dict[int, list[dict[str, Any]]]:
    old, new = (version.snapshot_id for version in catalog.datasets())
    pair = catalog.query("select max(pair_id) as p from train_pairs")["p"][0].as_py()
    texts = questions(pair, old, new)
    assert len(texts) == 10
    return {int(t.split(".")[0]): catalog.query(sql).to_pylist() for t, sql in texts.items()}


def test_counts_agree_with_each_other(answers: dict[int, list[dict[str, Any]]]) -> None:
    per = {row["category"]: row for row in answers[1]}
    assert len(per) == 6 and sum(row["mined"] for row in per.values()) == PAIRS
    for row in per.values():
        assert row["mined"] == row["accepted"] + row["rejected"] > row["rejected"] > 0
        assert row["accepted"] == row["train"] + row["val"] + row["test"]
    accepted = sum(row["accepted"] for row in per.values())
    assert sum(row["pairs"] for row in answers[3]) == accepted
    train = sum(row["train"] for name, row in per.items() if name != "t2i")
    assert sum(row["pairs"] for row in answers[4]) == train
    assert all(0.02 <= row["l1_median"] <= row["l1_p95"] <= 1 for row in answers[4])
    assert {r["category"]: r["now"] for r in answers[5]} == {
        name: row["train"] for name, row in per.items() if name != "t2i"
    }
    assert all(0 < row["then"] < row["now"] for row in answers[5])


def test_reasons_leaks_decisions_versions_lineage(
    answers: dict[int, list[dict[str, Any]]], catalog: Catalog
) -> None:
    reasons = {row["reason"] for row in answers[2]}
    assert reasons == {"caption_refused", "clip_dir_min", "l1_min", "nsfw_max"}
    assert answers[6] == []
    assert [row["file"] for row in answers[7]] == ["ctx0.png", "tgt.png"]
    assert all(row["object"].startswith("blobs/sha256/") for row in answers[7])
    assert sum(row["decisions"] for row in answers[8]) == PAIRS // 5
    assert [(row["old"], row["new"]) for row in answers[9]] == [(100, 200)] * 6
    assert [row["stage"] for row in answers[10]] == ["index", "ingest", "mine"]


def test_a_leak_is_found(catalog: Catalog, store: str) -> None:
    sql = next(t for title, t in questions("", 1, 1).items() if title.startswith("6."))
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE pair_facts AS SELECT 'd' AS dataset, 'c' AS component_id, "
            "unnest(['train', 'test']) AS split, true AS accept"
        )
        assert connection.execute(sql).fetchall() == [("d", "c", "test", "train")]


def test_a_plain_connection_runs_the_prelude(catalog: Catalog, store: str) -> None:
    count = "SELECT count(*) FROM pair_facts"
    old = catalog.snapshot("demo@v1")
    for snapshot, rows in ((None, PAIRS), (old, 600)):
        with duckdb.connect() as connection:
            connection.execute(prelude(str(catalog.path), store, snapshot))
            assert connection.execute(count).fetchall() == [(rows,)]
            with pytest.raises(duckdb.Error, match="read-only"):
                connection.execute("DELETE FROM pair_facts")


def _duckdb() -> str:
    found = shutil.which("duckdb", path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip("no duckdb command (extra shell)")
    return found


def test_the_duckdb_command_runs_it_and_so_does_the_shell(catalog: Catalog, store: str) -> None:
    command = [sys.executable, "-m", "flows.cli", "sql", "--shell", "--store", store]
    env = {**os.environ, "KONTEXT_CATALOG": str(catalog.path)}
    assert _duckdb()
    asked = ".mode csv\nselect count(*) as n from pair_facts;\n"
    done = subprocess.run(command, input=asked, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-2:] == ["n", str(PAIRS)]
    writes = "delete from pair_facts;\ndelete from __ducklake_metadata_lake.ducklake_snapshot;\n"
    done = subprocess.run(
        command, input=writes + asked, env=env, capture_output=True, text=True, check=False
    )
    assert done.stderr.count("read-only mode") == 2
    assert done.stdout.split()[-2:] == ["n", str(PAIRS)]


@pytest.mark.s3
def test_the_prelude_of_a_lake_in_s3_takes_its_keys_from_the_environment(
    s3_url: str, tmp_path: Path
) -> None:
    lake = Catalog(tmp_path / "catalog.sqlite", s3_url)
    lake.commit_dataset("demo", "one", generate(60, tmp_path / "files"), {})
    text = prelude(str(lake.path), s3_url)
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in text
    (tmp_path / "prelude.sql").write_text(text)
    done = subprocess.run(
        [_duckdb(), "-csv", "-init", str(tmp_path / "prelude.sql")],
        input="select count(*) as n from pair_facts;",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split()[-1] == "60", done.stderr


def test_queries_reach_nothing_but_the_lake(catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("a\n1\n")
    out = tmp_path / "out.csv"
    for sql in (
        f"COPY (SELECT 1) TO '{out}'",
        f"SELECT * FROM read_csv('{tmp_path}/secret.csv')",
        f"ATTACH '{tmp_path}/other.db'",
        "SET enable_external_access = true",
    ):
        with pytest.raises(CatalogError):
            catalog.query(sql)
    assert not out.exists()


def test_each_version_is_plain_parquet_too(catalog: Catalog, store: str) -> None:
    objects = open_store(store)
    version = find_version(catalog.datasets(), "demo@v1")
    prefix = export_version(catalog, objects, version)
    assert prefix == "datasets/demo/v1/"
    keys = objects.list(prefix)
    assert export_version(catalog, objects, version) == prefix and objects.list(prefix) == keys
    path = objects.local_path(f"{prefix}pair_facts.parquet")
    table = pq.read_table(path)
    assert table.num_rows == 600 and "dataset" not in table.column_names
    assert table["pair_id"].to_pylist() == sorted(table["pair_id"].to_pylist())
    with duckdb.connect() as connection:  # no lake, no extension
        joined = f"SELECT count(*) FROM '{path}' JOIN '{path.with_name('captions.parquet')}'"
        assert connection.execute(f"{joined} USING (pair_id)").fetchall() == [(600,)]
    assert find_version(catalog.datasets(), "demo").version == 2
    with pytest.raises(CatalogError, match=r"no dataset version 'demo@v9' \(known: demo@v1"):
        find_version(catalog.datasets(), "demo@v9")


def test_the_newest_duckdb_reads_the_plain_parquet(
    catalog: Catalog, store: str, tmp_path: Path
) -> None:
    """It has no extension for the lake yet. Skipped where pip cannot fetch it."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    fetched = subprocess.run(
        [*command, str(tmp_path / "newest"), "duckdb>=2"], capture_output=True, check=False
    )
    if fetched.returncode:
        pytest.skip("pip cannot fetch the newest duckdb here")
    objects = open_store(store)
    prefix = export_version(catalog, objects, find_version(catalog.datasets(), "demo@v2"))
    path = objects.local_path(f"{prefix}pair_facts.parquet")
    code = (
        "import duckdb; assert int(duckdb.__version__.split('.')[0]) >= 2; "
        f"print(duckdb.sql(\"select count(*) from '{path}' where accept\").fetchall()[0][0])"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "newest")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    accepted = catalog.query("select count(*) as n from pair_facts where accept")
    assert [int(done.stdout)] == accepted["n"].to_pylist()


@pytest.fixture(params=["sqlite", "postgres"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield str(tmp_path / "catalog.sqlite")
    else:
        yield request.getfixturevalue("postgres_url")


def test_readers_never_see_half_a_version_and_at_stays_right(location: str, tmp_path: Path) -> None:
    store = f"file://{tmp_path}/store"
    lake = Catalog(location, store)
    versions = [generate(60 + n, tmp_path / str(n)) for n in range(5)]
    lake.commit_dataset("small", "first", versions[0], {})
    done, _, reads, torn = commit_beside_readers(lake, store, versions[1:])
    assert reads > 0 and torn == 0
    count = "select count(*) as n from pair_facts"
    found = [lake.query(count, at=version.snapshot_id)["n"][0].as_py() for version in done]
    assert found == [61, 62, 63, 64]
    assert lake.query(count, at="small@v1")["n"].to_pylist() == [60]
