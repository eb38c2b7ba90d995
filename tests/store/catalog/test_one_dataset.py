"""A query reads one dataset, unless it says which."""

from pathlib import Path

import duckdb
import pytest

from kontext.errors import CatalogError
from kontext.store.catalog.catalog import Catalog
from kontext.store.catalog.explain import explain
from kontext.store.lake.connections import prelude
from kontext.store.lake.readonly import datasets_in, narrowing
from tests.store.lake_rows import dataset


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    folder = tmp_path_factory.mktemp("two")
    found = Catalog(folder / "catalog.sqlite", f"file://{folder}/store")
    for name, pairs in (("demo", 6), ("own", 12), ("demo", 9)):
        found.commit_dataset(name, f"{name}{pairs}", dataset(pairs, {"l1_min": 0}), {})
    return found


def asked(catalog: Catalog, sql: str, at: str | None = None) -> tuple[list[object], bool]:
    """The first column, and whether a dataset was asked for."""
    calls: list[str] = []

    def choose() -> str:
        calls.append("own")
        return "own"

    answer = catalog.query(sql, at=at, dataset=choose)
    return answer.column(0).to_pylist(), bool(calls)


@pytest.mark.parametrize(
    ("sql", "own", "whole"),
    [
        ("select count(*) from pairs", 12, 21),
        ("select count(*) from PAIRS", 12, 21),
        ("select count(*) from main.pairs", 12, 21),
        ("select count(*) from pair_facts", 12, 21),
        ("select sum(mined)::int from pairs_by_category", 12, 21),
        ("select count(*) from (select * from pairs) p", 12, 21),
        ("with t as (from pairs) select count(*) from t", 12, 21),
        ("select count(*) from pairs p join captions c using (dataset, pair_id)", 12, 21),
    ],
)
def test_tables_and_views_hold_one_dataset(
    catalog: Catalog, sql: str, own: int, whole: int
) -> None:
    assert asked(catalog, sql) == ([own], True)
    assert catalog.query(sql, dataset="own").column(0).to_pylist() == [own]
    assert catalog.query(sql).column(0).to_pylist() == [whole]


@pytest.mark.parametrize(
    "sql",
    [
        "select count(*) from pairs where dataset = 'demo'",
        "select count(*) from pairs p where p.DATASET = 'demo'",
        "select n from (select dataset, count(*) n from pairs group by all) where n < 10",
    ],
)
def test_a_query_that_names_the_dataset_reads_all(catalog: Catalog, sql: str) -> None:
    assert asked(catalog, sql) == ([9], False)


def test_nothing_is_asked_where_rows_belong_to_no_dataset(catalog: Catalog) -> None:
    assert asked(catalog, "select count(*) from runs") == ([0], False)
    assert asked(catalog, "select count(*) from lake.main.pairs")[0] == [21]  # on purpose
    past = "select count(*) from pairs at (version => {})"
    first = catalog.datasets()[0].snapshot_id
    assert asked(catalog, past.format(first)) == ([6], False)
    with pytest.raises(CatalogError, match="AT and one dataset exclude each other"):
        catalog.query(past.format(first), dataset="demo")
    with pytest.raises(CatalogError, match=r"no dataset 'ow' in the catalog \(known: demo, own\)"):
        catalog.query("select 1 from pairs", dataset="ow")


def test_it_holds_for_earlier_versions(catalog: Catalog) -> None:
    sql = "select count(*) from train_pairs"
    for at, pairs in (("own@v1", 5), (None, 8)):
        assert catalog.query(sql, at=at, dataset="demo").column(0).to_pylist() == [pairs]


def test_a_pair_of_several_datasets_is_explained_in_the_one_asked_for(catalog: Catalog) -> None:
    for name in ("demo", "own"):
        story = explain(catalog, "p01", dataset=name)
        assert {row["dataset"] for row in story["evidence"]} == {name}
    assert explain(catalog, "p11", dataset="demo")["evidence"][0]["dataset"] == "own"


def test_other_clients_can_narrow_too(catalog: Catalog) -> None:
    with catalog.connect() as connection:
        names = datasets_in(connection)
    assert {"pairs", "train_pairs", "safety_summary"} <= names and "runs" not in names
    store = f"file://{Path(catalog.path).parent}/store"
    with duckdb.connect() as connection:
        connection.execute(prelude(str(catalog.path), store))
        for statement in narrowing(sorted(names), "own"):
            connection.execute(statement)
        for table, count in (("pairs", 12), ("lake.pairs", 21), ("acceptance", 12)):
            found = connection.execute(f"select count(*) from {table}").fetchall()
            assert found == [(count,)]
