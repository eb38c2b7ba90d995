"""Catalogs of released versions under today's code.

lake_v1.tar.xz is a lake of kontext 0.1.0 (schema version 1): one recorded stage, then the datasets
of tests/store/lake_rows.py as demo@v1 (6 pairs), l1_min = 0.02, demo@v2 (9 pairs) and ci@v1 (3).
"""

import tarfile
from pathlib import Path

import pytest

from kontext.errors import CatalogError
from kontext.store.artifacts.archive import unpack
from kontext.store.catalog.catalog import Catalog
from kontext.store.lake import migrations
from tests.store.catalog.test_catalog import newest_snapshot
from tests.store.lake_rows import dataset

POLICY = {"l1_min": 0.03, "nsfw_max": 0.5}


@pytest.fixture
def released(tmp_path: Path) -> Catalog:
    """The lake of version 1, unpacked elsewhere than where it was made."""
    with tarfile.open(Path(__file__).with_name("lake_v1.tar.xz")) as tar:
        unpack(tar, tmp_path)
    catalog = Catalog(tmp_path / "catalog.sqlite", f"file://{tmp_path}/store")
    with pytest.raises(CatalogError, match="kontext catalog move"):
        catalog.query("select 1")
    catalog.move()
    return catalog


def rejected(catalog: Catalog, at: str | None = None) -> list[str]:
    sql = "select dataset || ' ' || pair_id as p from rejected_pairs order by 1"
    return list(catalog.query(sql, at=at)["p"].to_pylist())


def test_version_1_is_read_then_migrated_and_answers_the_same(released: Catalog) -> None:
    before = {at: rejected(released, at) for at in (None, "demo@v1", "demo@v2", "ci@v1")}
    assert before["demo@v1"] == ["demo p00", "demo p01"]
    assert "pair_facts" not in {info.name for info in released.tables()}
    released.migrate()
    after = {at: rejected(released, at) for at in before}
    assert after == before
    described = {info.name: info.comment for info in released.tables()}
    assert {"pair_facts", "evaluated_items", "pair_files"} <= set(described)
    assert all(described.values())
    found = released.query("select dataset, count(*) as n from pair_facts group by 1 order by 1")
    assert found.to_pylist() == [{"dataset": "ci", "n": 3}, {"dataset": "demo", "n": 9}]
    version = released.query("select version from schema_version")["version"].to_pylist()
    assert version == [migrations.SCHEMA_VERSION] == [2]


def test_work_goes_on_after_the_migration(released: Catalog) -> None:
    again = released.commit_dataset("demo", "two", dataset(9, POLICY), {})
    assert (again.version, again.created) == (2, False)
    three = released.commit_dataset("demo", "three", dataset(12, POLICY), {})
    assert three.version == 3 and len(rejected(released, "demo@v3")) > 0
    released.commit_dataset("demo", "four", dataset(12, {**POLICY, "l1_min": 0.0}), {})
    assert not [pair for pair in rejected(released) if pair.startswith("demo")]
    assert len([pair for pair in rejected(released, "demo@v3") if pair.startswith("demo")]) == 2
    snapshot = newest_snapshot(released)
    Catalog(released.path, released._data.removesuffix("catalog/")).migrate()
    assert newest_snapshot(released) == snapshot


def test_a_newer_catalog_is_refused_by_writers(
    released: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(migrations, "SCHEMA_VERSION", 7)
        released.migrate()
    today = Catalog(released.path, released._data.removesuffix("catalog/"))
    with pytest.raises(CatalogError, match="schema version 7, this kontext knows 2"):
        today.commit_dataset("demo", "x", dataset(2, POLICY), {})
    assert len(today.datasets()) == 3  # reading goes on
