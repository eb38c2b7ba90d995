"""A catalog in a real PostgreSQL: many writers, no password in any message."""

import threading
from pathlib import Path

import duckdb
import pytest

from kontext.errors import CatalogError
from kontext.store.catalog.catalog import Catalog
from kontext.store.lake.connections import prelude
from kontext.store.lake.ddl import quote
from kontext.store.lake.metadata import load, open_metadata
from tests.store.catalog.test_catalog import POLICY, manifest
from tests.store.lake_rows import dataset


def test_a_catalog_in_postgres_does_what_one_in_sqlite_does(
    postgres_url: str, tmp_path: Path
) -> None:
    store = f"file://{tmp_path}/store"
    catalog = Catalog(postgres_url, store)
    missing = r"no catalog at postgres://kontext@127\.0\.0\.1"
    with pytest.raises(CatalogError, match=missing) as nothing:
        catalog.query("select 1")
    assert "secret" not in str(nothing.value) and catalog.datasets() == []
    assert catalog.record(manifest()) is True
    one = catalog.commit_dataset("demo", "one", dataset(6, POLICY), {"mine": "m1"})
    again = Catalog(str(catalog.path), store)  # as another process would
    assert again.record(manifest()) is False
    two = again.commit_dataset("demo", "two", dataset(9, POLICY), {"mine": "m1"})
    assert (one.version, two.version) == (1, 2)
    stricter = dataset(9, {**POLICY, "l1_min": 0.05})
    again.commit_dataset("demo", "three", stricter, {"mine": "m1"})
    count = "select count(*) as n from rejected_pairs"
    assert again.query(count)["n"].to_pylist() == [4]
    assert again.query(count, at="demo@v1")["n"].to_pylist() == [2]
    assert again.referenced() == {("mine", "m1")}
    assert {info.name: info.rows for info in again.tables()}["pair_facts"] == 9
    with duckdb.connect() as connection:
        connection.execute(prelude(postgres_url, store))
        assert connection.execute("SELECT count(*) FROM pairs").fetchall() == [(9,)]
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    moved = Catalog(postgres_url, f"file://{tmp_path}/elsewhere")
    with pytest.raises(CatalogError, match="kontext catalog move") as refused:
        moved.datasets()
    assert "secret" not in str(refused.value)
    moved.move()
    assert [v.version for v in moved.datasets()] == [1, 2, 3]


def test_writers_take_turns(postgres_url: str, tmp_path: Path) -> None:
    store = f"file://{tmp_path}/store"
    Catalog(postgres_url, store).migrate()
    failed: list[BaseException] = []

    def write(number: int) -> None:
        try:
            catalog = Catalog(postgres_url, store)
            catalog.commit_dataset("demo", f"by {number}", dataset(3, POLICY), {})
        except BaseException as error:  # noqa: BLE001 - shown by the test
            failed.append(error)

    writers = [threading.Thread(target=write, args=(n,)) for n in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failed == []
    versions = Catalog(postgres_url, store).datasets()
    assert [v.version for v in versions] == [1, 2, 3]
    assert len({v.dataset_digest for v in versions}) == 3


def test_a_query_cannot_reach_the_server(postgres_url: str, tmp_path: Path) -> None:
    catalog = Catalog(postgres_url, f"file://{tmp_path}/store")
    catalog.commit_dataset("demo", "one", dataset(6, POLICY), {})
    for sql in (
        f"ATTACH '{postgres_url}' AS w (TYPE postgres)",
        f"ATTACH 'ducklake:postgres:{postgres_url}' AS w",
        "CALL postgres_execute('__ducklake_metadata_lake', 'DROP TABLE ducklake_metadata')",
        "FROM postgres_query('__ducklake_metadata_lake', 'DELETE FROM ducklake_table RETURNING 1')",
        f"FROM postgres_scan('{postgres_url}', 'public', 'ducklake_metadata')",
        "FROM __ducklake_metadata_lake.ducklake_metadata",
        "FROM duckdb_databases()",
    ):
        with pytest.raises(CatalogError, match="refused") as error:
            catalog.query(sql)
        assert "secret" not in str(error.value)
    assert catalog.query("FROM pairs").num_rows == 6


def documented_role(database: str) -> list[str]:
    """The statements of docs/sql.md, for this database."""
    page = (Path(__file__).parents[2] / "docs" / "sql.md").read_text()
    text = page.partition("## Many users")[2].partition("```sql\n")[2].partition("```")[0]
    assert "kontext_reader" in text
    lines = [line.strip() for line in text.replace("\n", " ").split(";") if line.strip()]
    return [line.replace("DATABASE kontext", f"DATABASE {database}") for line in lines]


def test_the_documented_role_can_only_read(postgres_url: str, tmp_path: Path) -> None:
    store = f"file://{tmp_path}/store"
    owner = Catalog(postgres_url, store)
    owner.commit_dataset("demo", "one", dataset(6, POLICY), {})
    server, _, database = postgres_url.rpartition("/")
    with duckdb.connect() as connection:
        load(connection, "postgres_scanner")
        connection.execute(f"ATTACH {quote(postgres_url)} AS pg (TYPE postgres)")
        for statement in documented_role(database):
            connection.execute(f"CALL postgres_execute('pg', {quote(statement)})")
    url = f"postgres://kontext_reader:choose%20one@{server.rpartition('@')[2]}/{database}"
    reader = Catalog(url, store)
    owner.commit_dataset("demo", "two", dataset(9, POLICY), {})  # after the grants
    assert reader.query("FROM pairs").num_rows == 9
    assert reader.query("FROM pairs", at="demo@v1").num_rows == 6
    assert {info.name: info.rows for info in reader.tables()}["pair_facts"] == 9
    with pytest.raises(CatalogError) as refused:
        reader.record(manifest())
    assert "choose" not in str(refused.value)
    with duckdb.connect() as connection:  # a client that attaches as it likes
        connection.execute(prelude(url, store))
        target = quote(f"ducklake:postgres:{url}")
        connection.execute(f"ATTACH {target} AS w (METADATA_SCHEMA 'public')")
        connection.execute(f"ATTACH {quote(url)} AS pg (TYPE postgres)")
        for sql in (
            "UPDATE w.policy SET value = 0.9",
            "DELETE FROM w.pairs",
            "CREATE TABLE w.t (a INT)",
            "DELETE FROM pg.ducklake_snapshot",
            "CALL postgres_execute('pg', 'DROP TABLE ducklake_metadata')",
            "CALL postgres_execute('pg', 'CREATE TABLE t (a INT)')",
            "CALL postgres_execute('pg', 'CREATE TEMP TABLE t (a INT)')",
        ):
            with pytest.raises(duckdb.Error, match=r"permission denied|must be owner"):
                connection.execute(sql)
    assert owner.query("FROM pairs").num_rows == 9
    assert owner.query("SELECT value FROM policy ORDER BY name")["value"][0].as_py() == 0.03


def test_an_unreachable_or_unknown_catalog_is_one_clear_line(tmp_path: Path) -> None:
    catalog = Catalog("postgres://me:hush@127.0.0.1:1/x", f"file://{tmp_path}")
    with pytest.raises(CatalogError, match="cannot reach the catalog postgres://me@127") as error:
        catalog.datasets()
    assert "hush" not in str(error.value)
    with pytest.raises(CatalogError, match="catalog 'mysql://'"):
        open_metadata("mysql://host/db")
