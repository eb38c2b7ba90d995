"""SQL that can only read: attacks are refused and change nothing, ordinary queries are answered."""

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kontext.errors import CatalogError
from kontext.store.catalog.catalog import Catalog
from kontext.store.lake import readonly
from kontext.store.lake.connections import restrict
from kontext.store.lake.functions import FUNCTIONS, TABLE_FUNCTIONS
from tests.store.lake import attacks
from tests.store.lake_rows import dataset

Connection = duckdb.DuckDBPyConnection


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with a catalog, a store and another SQLite file; and a folder where we are."""
    folder = tmp_path_factory.mktemp("readonly")
    outside = folder / "outside"
    outside.mkdir()
    (outside / "secret.csv").write_text("a\n1\n")
    (outside / "schema.sql").write_text("CREATE TABLE memory.main.t (a INT);")
    (outside / "load.sql").write_text("")
    (folder / "home" / "prefect").mkdir(parents=True)
    with closing(sqlite3.connect(folder / "home" / "prefect" / "prefect.db")) as database, database:
        database.execute("CREATE TABLE flow (name TEXT)")
    tables = dataset(6, {"l1_min": 0.03})
    catalog(folder).commit_dataset("demo", "one", tables, {"mine": "m1"})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(outside)
        yield folder


@pytest.fixture(scope="module")
def reader(root: Path) -> Iterator[Connection]:
    """What `Catalog.query` asks."""
    with closing(catalog(root).connect()) as connection:
        restrict(connection, f"file://{root}/home/store/catalog/")
        yield connection


def catalog(root: Path) -> Catalog:
    return Catalog(root / "home" / "catalog.sqlite", f"file://{root}/home/store")


def files(root: Path) -> dict[str, str]:
    """Every file and folder with its SHA-256; SQLite's index of its log is not data."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(root.rglob("*"))
        if not path.name.endswith("-shm")
    }


def filled(sql: str, root: Path) -> str:
    return sql.replace("{home}", f"{root}/home").replace("{outside}", f"{root}/outside")


def refused(reader: Connection, root: Path, sql: str) -> str:
    """The one line with which a statement is refused, before it runs and without any effect."""
    before = files(root)
    with pytest.raises(CatalogError) as error:
        readonly.run(reader, readonly.check(reader, filled(sql, root)))
    assert files(root) == before
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("sql", [*attacks.STATEMENTS, *attacks.TRICKS])
def test_what_is_not_one_query_is_refused(reader: Connection, root: Path, sql: str) -> None:
    why = refused(reader, root, sql)
    assert "cannot read the SQL" not in why  # the attack itself is well-formed


@pytest.mark.parametrize("source", attacks.SOURCES)
def test_what_is_not_the_lakes_is_refused_in_from(
    reader: Connection, root: Path, source: str
) -> None:
    assert "refused" in refused(reader, root, f"SELECT * FROM {source}")
    refused(reader, root, f"SELECT count(*) FROM pairs, {source} AS x")


@pytest.mark.parametrize("expression", attacks.EXPRESSIONS)
def test_functions_that_do_more_than_compute_are_refused(
    reader: Connection, root: Path, expression: str
) -> None:
    assert "refused" in refused(reader, root, f"SELECT {expression}")


@pytest.mark.parametrize("sql", attacks.ALLOWED)
def test_ordinary_queries_are_answered(reader: Connection, root: Path, sql: str) -> None:
    before = files(root)
    answer = readonly.run(reader, readonly.check(reader, sql))
    assert answer.num_columns > 0
    assert files(root) == before


def test_what_the_check_would_overlook_is_stopped_where_it_runs(
    reader: Connection, root: Path
) -> None:
    before = files(root)
    for sql in ("ATTACH ':memory:' AS m", "CREATE TEMP TABLE t (a INT)", "SELECT 1; SELECT 2"):
        with pytest.raises(CatalogError, match="refused"):
            readonly.run(reader, readonly.Query(sql, frozenset()))
    for sql in ("FROM reader", "FROM read_csv('secret.csv')", "FROM 'secret.csv'"):
        with pytest.raises(duckdb.Error):
            readonly.run(reader, readonly.Query(sql, frozenset()))
    for sql in ("SET threads = 1", "INSTALL spatial", "LOAD spatial"):
        with pytest.raises(duckdb.Error):
            reader.execute(sql)
    reader.execute("BEGIN TRANSACTION READ ONLY")
    with pytest.raises(duckdb.Error, match="read-only"):
        reader.execute("CREATE TABLE memory.main.t (a INT)")
    reader.execute("ROLLBACK")
    with pytest.raises(duckdb.Error, match="read-only"):
        reader.execute("DELETE FROM __ducklake_metadata_lake.ducklake_snapshot")
    assert files(root) == before


def test_the_catalog_answers_this_way(root: Path) -> None:
    """What was found in the wild, through the method that `kontext sql` calls."""
    before = files(root)
    found = catalog(root)
    for sql in (
        *attacks.STATEMENTS[:3],
        "SELECT * FROM sqlite_scan('{home}/prefect/prefect.db', 'flow')",
        "SELECT * FROM __ducklake_metadata_lake.ducklake_metadata",
        "COPY (SELECT 1) TO '{home}/store/catalog/out.csv'",
    ):
        with pytest.raises(CatalogError, match="refused"):
            found.query(filled(sql, root), at="demo@v1")
    assert found.query("FROM pairs", at="demo@v1").num_rows == 6
    assert files(root) == before


def test_messages_name_what_is_refused_and_what_is_not(reader: Connection) -> None:
    for sql, what in (
        ("attach 'x'", "ATTACH is refused: the catalog answers one SELECT"),
        ("/* a */ -- b\n explain (analyze) delete from pairs", "DELETE is refused"),
        ("select 1; select 2", "more than one statement is refused"),
        ("select 1; drop table pairs", "more than one statement is refused"),
        (
            "with x as (select 1) delete from pairs",
            "WITH before anything but one SELECT is refused",
        ),
        (" ", "an empty query is refused"),
        ("from glob('x')", r"the function glob\(\) is refused.* one SELECT"),
        ("from 'x.csv'", "no table or view 'x.csv' in the lake .*files and other"),
        ("pivot pairs on miner using count(*)", r"PIVOT … ON column IN \('one'"),
        ("selec 1", 'cannot read the SQL: syntax error at or near "selec"'),
        ("select '\udc80'", "not valid text"),
        ("select " + "1 + " * 5000 + "1", "cannot read|too deeply"),
    ):
        with pytest.raises(CatalogError, match=what):
            readonly.check(reader, sql)


def test_the_tables_that_a_query_reads_are_known(reader: Connection) -> None:
    sql = "WITH images AS (FROM PAIRS) SELECT (FROM lake.splits LIMIT 1) FROM images, runs"
    assert readonly.check(reader, sql).relations == {"pairs", "splits", "runs"}


def test_functions_that_pass_are_duckdbs_and_none_reaches_out() -> None:
    with duckdb.connect() as connection:
        sql = "SELECT DISTINCT lower(function_name), function_type FROM duckdb_functions()"
        found = connection.execute(sql).fetchall()
    tables = {name for name, kind in found if kind == "table"}
    others = {name for name, kind in found if kind in ("scalar", "aggregate", "macro")}
    assert tables >= TABLE_FUNCTIONS
    assert others | {"row", "unnest"} >= FUNCTIONS
    reaching = "read_ scan query secret setting variable attach log_ sleep write glob sql lake"
    reaching += " parquet duckdb _plan nextval finalize"
    passing = FUNCTIONS | TABLE_FUNCTIONS
    assert not [name for name in passing if any(part in name for part in reaching.split())]


# every place in which a table can be named; {} is a table or what pretends to be one
PLACES = (
    "SELECT * FROM {}",
    "SELECT (SELECT count(*) FROM {})",
    "SELECT 1 WHERE EXISTS (SELECT 1 FROM {})",
    "SELECT 1 WHERE 1 IN (SELECT 1 FROM {})",
    "SELECT CASE WHEN (SELECT true FROM {} LIMIT 1) THEN 1 ELSE (SELECT 2 FROM {} LIMIT 1) END",
    "SELECT 1 ORDER BY (SELECT 1 FROM {} LIMIT 1)",
    "SELECT 1 LIMIT (SELECT 1 FROM {} LIMIT 1)",
    "SELECT 1 GROUP BY (SELECT 1 FROM {} LIMIT 1)",
    "SELECT count(*) FILTER ((SELECT true FROM {} LIMIT 1)) FROM pairs",
    "SELECT sum(1) OVER (ORDER BY (SELECT 1 FROM {} LIMIT 1)) FROM pairs",
    "SELECT 1 FROM pairs QUALIFY (SELECT true FROM {} LIMIT 1)",
    "SELECT 1 HAVING (SELECT true FROM {} LIMIT 1)",
    "SELECT * FROM pairs, {} AS x",
    "SELECT * FROM pairs LEFT JOIN {} AS x ON true",
    "SELECT * FROM pairs JOIN images ON (SELECT true FROM {} LIMIT 1)",
    "SELECT * FROM pairs, LATERAL (SELECT 1 FROM {})",
    "SELECT * FROM range((SELECT 1 FROM {} LIMIT 1))",
    "SELECT [(SELECT 1 FROM {} LIMIT 1), 2], {{'a': (SELECT 1 FROM {} LIMIT 1)}}",
    "SELECT list_transform([1], x -> x + (SELECT 1 FROM {} LIMIT 1))",
    "VALUES ((SELECT 1 FROM {} LIMIT 1))",
    "WITH w AS (SELECT * FROM {}) SELECT 1 FROM w",
    "WITH w AS MATERIALIZED (SELECT * FROM {}) SELECT 1",
    "WITH RECURSIVE w AS (SELECT 1 FROM {} UNION SELECT 1 FROM w, {}) SELECT 1 FROM w",
    "SELECT 1 UNION ALL SELECT 1 FROM {}",
    "SELECT * REPLACE ((SELECT 'x' FROM {} LIMIT 1) AS miner) FROM pairs",
    "SELECT * FROM (SELECT 1 AS a FROM {}) PIVOT (count(*) FOR a IN (1))",
    "UNPIVOT (SELECT 1 AS a FROM {}) ON a",
    "FROM {} SELECT 1",
    "DESCRIBE SELECT * FROM {}",
    "SUMMARIZE SELECT 1 AS a FROM {}",
    "EXPLAIN SELECT 1 FROM {}",
    "EXPLAIN ANALYZE SELECT 1 FROM {}",
)
BLANKS = st.lists(st.sampled_from([" ", "\n", "\t", "/* SELECT */", "-- x\n"]), max_size=4)


@given(data=st.data())
@settings(max_examples=200)
def test_no_place_hides_a_source(reader: Connection, data: st.DataObject) -> None:
    """Harmless tables pass in every place, others in none, however deep."""
    source = data.draw(st.sampled_from([*attacks.SOURCES, *["pairs"] * 40]))
    sql = data.draw(st.sampled_from(PLACES)).replace("{}", source)
    for _ in range(data.draw(st.integers(0, 3))):
        if not sql.startswith(("EXPLAIN", "DESCRIBE", "SUMMARIZE")):
            places = [place for place in PLACES if "OVER" not in place or "OVER" not in sql]
            sql = data.draw(st.sampled_from(places)).replace("{}", f"({sql})")
    sql = sql.replace("{{", "{").replace("}}", "}")
    if source == "pairs":
        assert "pairs" in readonly.check(reader, sql).relations
    else:
        with pytest.raises(CatalogError):
            readonly.check(reader, sql)


@given(
    kind=st.sampled_from(attacks.STATEMENTS),
    before=BLANKS,
    after=st.sampled_from(["", ";", " ; ;", "; SELECT 1", " -- x", "/**/"]),
    first=st.sampled_from(["", ";", "SELECT 1;", "EXPLAIN ", "FROM pairs; "]),
    swap=st.booleans(),
)
@settings(max_examples=150)
def test_no_spelling_hides_a_statement(
    reader: Connection, kind: str, before: list[str], after: str, first: str, swap: bool
) -> None:
    sql = first + "".join(before) + (kind.swapcase() if swap else kind) + after
    with pytest.raises(CatalogError):
        readonly.check(reader, sql)


WORDS = (
    "SELECT FROM WITH pairs a AS ( ) , ; * 1 'x.csv' \"x\" EXPLAIN ANALYZE DESCRIBE SUMMARIZE SHOW "
    "TABLES ATTACH COPY TO DELETE UNION ALL VALUES WHERE PIVOT ON IN USING count(*) /* */ -- \n $$ "
    "CALL PRAGMA range(3) AT (VERSION => 1) duckdb_logs memory . lake"
)


@given(words=st.lists(st.sampled_from(WORDS.split(" ")), max_size=12))
@settings(max_examples=200)
def test_whatever_passes_only_reads(reader: Connection, root: Path, words: list[str]) -> None:
    try:
        query = readonly.check(reader, " ".join(words))
    except CatalogError:
        return
    before = files(root)
    with suppress(duckdb.Error):  # it may not bind
        readonly.run(reader, query)
    assert files(root) == before
