"""A catalog in a real PostgreSQL: many writers, no password in any message."""

import threading
from pathlib import Path

import duckdb
import pytest

from kontext.errors import CatalogError
from kontext.store.catalog.catalog import Catalog
from kontext.store.lake.connections import prelude
from kontext.store.lake.metadata import open_metadata
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


def test_an_unreachable_or_unknown_catalog_is_one_clear_line(tmp_path: Path) -> None:
    catalog = Catalog("postgres://me:hush@127.0.0.1:1/x", f"file://{tmp_path}")
    with pytest.raises(CatalogError, match="cannot reach the catalog postgres://me@127") as error:
        catalog.datasets()
    assert "hush" not in str(error.value)
    with pytest.raises(CatalogError, match="catalog 'mysql://'"):
        open_metadata("mysql://host/db")
