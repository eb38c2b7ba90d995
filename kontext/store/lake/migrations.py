"""Bringing a catalog to today's schema, from nothing or from any released version.

Tables, columns and views follow schemas/catalog.py and schemas/views; what cannot be derived from
them is a numbered step. `schema_version` holds the number and a digest of all statements.
"""

import hashlib
from collections.abc import Callable

import duckdb

from kontext.errors import CatalogError
from kontext.store.catalog.facts import refresh_facts
from kontext.store.catalog.views import views, views_digest
from kontext.store.lake.ddl import add_columns, create_table, quote
from schemas.catalog import TABLES

Connection = duckdb.DuckDBPyConnection

LAKE_COLUMNS = """
    SELECT table_name, column_name, data_type, comment FROM duckdb_columns()
    WHERE database_name = 'lake' AND NOT internal ORDER BY table_name, column_index
"""


def _fill_facts(connection: Connection) -> None:
    for (dataset,) in connection.execute("SELECT DISTINCT name FROM datasets").fetchall():
        refresh_facts(connection, dataset)


# 2: pair_facts holds what the views used to join
_STEPS: dict[int, Callable[[Connection], None]] = {2: _fill_facts}
SCHEMA_VERSION = max(_STEPS)  # 1 is kontext 0.1.0


def wanted_digest() -> str:
    """Digest of today's tables and views."""
    statements = [sql for name, schema in TABLES.items() for sql in create_table(name, schema)]
    text = "\0".join([*statements, views_digest(), str(SCHEMA_VERSION)])
    return hashlib.sha256(text.encode()).hexdigest()


def present_schema(connection: Connection) -> tuple[int, str]:
    """Version and digest of a catalog's schema; 0 and "" where there is none.

    Raises CatalogError for a catalog of a newer version.
    """
    try:
        found = connection.execute("SELECT * FROM schema_version")
    except duckdb.CatalogException:  # a new lake; asking for its tables first costs as much again
        return 0, ""
    names = [column for column, *_ in found.description]
    row = found.fetchone()
    assert row is not None
    present = {"version": 1, **dict(zip(names, row, strict=True))}
    if present["version"] > SCHEMA_VERSION:
        raise CatalogError(
            f"the catalog has schema version {present['version']}, this kontext knows "
            f"{SCHEMA_VERSION}: update kontext"
        )
    return int(present["version"]), str(present["digest"])


def migrate(connection: Connection) -> None:
    """Create or change tables, columns and views, and run the steps that are missing."""
    version, _ = present_schema(connection)
    known = _columns(connection)
    connection.execute("CALL lake.set_option('parquet_compression', 'zstd')")
    for name, schema in TABLES.items():
        present = known.get(name)
        missing = add_columns(name, schema, present or set())
        for statement in create_table(name, schema) if present is None else missing:
            connection.execute(statement)
    for number, step in _STEPS.items():
        if 0 < version < number:
            step(connection)
    for view in views():
        connection.execute(f'CREATE OR REPLACE VIEW "{view.name}" AS {view.sql}')
        connection.execute(f'COMMENT ON VIEW "{view.name}" IS {quote(view.comment)}')
    _set_version(connection, known.get("schema_version", set()))


def _set_version(connection: Connection, columns: set[str]) -> None:
    if not columns:
        connection.execute("CREATE TABLE schema_version (digest VARCHAR, version INTEGER)")
        connection.execute(f"COMMENT ON TABLE schema_version IS {quote(_COMMENT)}")
    elif "version" not in columns:
        connection.execute("ALTER TABLE schema_version ADD COLUMN version INTEGER")
    connection.execute("DELETE FROM schema_version")
    row = [wanted_digest(), SCHEMA_VERSION]
    connection.execute("INSERT INTO schema_version (digest, version) VALUES (?, ?)", row)


def _columns(connection: Connection) -> dict[str, set[str]]:
    """Table or view of the attached lake -> its columns."""
    found: dict[str, set[str]] = {}
    for table, column, *_ in connection.execute(LAKE_COLUMNS).fetchall():
        found.setdefault(table, set()).add(column)
    return found


_COMMENT = "Which version of tables and views this catalog has."
