"""Compaction: what no dataset version needs goes, and every version answers as before."""

from datetime import timedelta
from pathlib import Path

import pytest

from kontext.errors import CatalogError
from kontext.store.catalog.catalog import Catalog
from kontext.store.catalog.compaction import Compaction
from kontext.store.objects import open_store
from tests.store.catalog.test_catalog import POLICY, manifest
from tests.store.lake_rows import dataset

NOW = timedelta(0)


@pytest.fixture(params=["sqlite", "postgres"])
def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> Catalog:
    location = str(tmp_path / "catalog.sqlite")
    if request.param == "postgres":
        location = request.getfixturevalue("postgres_url")
    return Catalog(location, f"file://{tmp_path}/store")


def answers(catalog: Catalog, *versions: str) -> list[list[object]]:
    sql = """SELECT dataset AS a, count(*)::varchar AS b, sum(accept::int)::varchar AS c
        FROM pair_facts GROUP BY ALL UNION ALL SELECT stage, digest, '' FROM runs ORDER BY ALL"""
    return [catalog.query(sql, at=at or None).to_pylist() for at in ("", *versions)]


def change(catalog: Catalog, dataset: str) -> None:
    """A snapshot of other rows than any version of the dataset has."""
    with catalog._connect(read_only=False) as connection:
        connection.execute("UPDATE pair_facts SET accept = NOT accept WHERE dataset = ?", [dataset])


def test_versions_answer_as_before_and_the_rest_goes(catalog: Catalog) -> None:
    assert catalog.compact(NOW, dry_run=False) == Compaction()  # nothing there yet
    for number in range(2):
        catalog.record(manifest("mine", f"m{number}"))
    catalog.commit_dataset("demo", "one", dataset(30, POLICY), {"mine": "m1"})
    change(catalog, "demo")
    between = catalog.snapshot("demo@v1") + 1
    catalog.record(manifest("mine", "m4"))
    catalog.commit_dataset("demo", "two", dataset(40, POLICY), {"mine": "m2"})
    catalog.commit_dataset("ci", "one", dataset(3, POLICY), {"mine": "m3"})
    change(catalog, "ci")
    versions = ("demo@v1", "demo@v2", "ci@v1")
    before = answers(catalog, *versions)
    assert catalog.compact(timedelta(days=1), dry_run=True).snapshots == 0  # all are young
    planned = catalog.compact(NOW, dry_run=True)
    assert planned.snapshots > 3 and planned.merged == 0
    assert catalog.compact(NOW, dry_run=False).snapshots == planned.snapshots
    assert answers(catalog, *versions) == before
    catalog.record(manifest("mine", "m5"))
    later = catalog.compact(NOW, dry_run=False)
    assert later.merged > 0 and later.files > 0  # unneeded since the first time
    assert answers(catalog, *versions)[1:] == before[1:]
    assert [(d.name, d.version) for d in catalog.datasets()] == [
        ("demo", 1),
        ("demo", 2),
        ("ci", 1),
    ]
    with pytest.raises(CatalogError, match="cannot open the catalog"):
        catalog.query("select 1", at=between)

    three = catalog.commit_dataset("demo", "three", dataset(50, POLICY), {})
    assert three.version == 3
    catalog.compact(NOW, dry_run=False)
    assert answers(catalog, *versions)[1:] == before[1:]


def test_files_of_another_catalog_over_the_same_store_stay(tmp_path: Path) -> None:
    """Two homes may share a store: each has a catalog, and their files lie side by side."""
    store = f"file://{tmp_path}/store"
    one, two = (Catalog(tmp_path / f"{name}.sqlite", store) for name in ("one", "two"))
    two.commit_dataset("demo", "one", dataset(30, POLICY), {})
    for digest in ("one", "two"):
        one.commit_dataset("demo", digest, dataset(20, POLICY), {})
    before = answers(two, "demo@v1")
    for _ in range(2):
        one.compact(NOW, dry_run=False)
    assert answers(two, "demo@v1") == before


def test_a_catalog_moves_only_where_all_its_files_are(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/store")
    catalog = Catalog(tmp_path / "catalog.sqlite", store.url)
    catalog.commit_dataset("demo", "one", dataset(60, POLICY), {})
    elsewhere = Catalog(tmp_path / "catalog.sqlite", f"file://{tmp_path}/elsewhere")
    with pytest.raises(CatalogError, match=r"files of .* are not in .*elsewhere.*catalog rebuild"):
        elsewhere.move()
    assert catalog.query("select count(*) as n from pairs")["n"].to_pylist() == [60]
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    elsewhere.move()
    assert elsewhere.query("select count(*) as n from pairs")["n"].to_pylist() == [60]
