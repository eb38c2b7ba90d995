"""What a catalog holds, for people: tables and views with their comments, columns and rows."""

from dataclasses import dataclass

import duckdb

from kontext.store.catalog.rows import scalar
from kontext.store.lake.migrations import LAKE_COLUMNS


@dataclass(frozen=True)
class TableInfo:
    """A table or view, for people."""

    name: str
    kind: str  # table or view
    comment: str
    rows: int
    columns: tuple[tuple[str, str, str], ...]  # name, type, comment


def describe(connection: duckdb.DuckDBPyConnection) -> list[TableInfo]:
    """Every table, then every view, of the attached lake."""
    columns: dict[str, list[tuple[str, str, str]]] = {}
    for table, name, kind, comment in connection.execute(LAKE_COLUMNS).fetchall():
        columns.setdefault(table, []).append((name, kind, comment or ""))
    found = []
    for name, kind, comment in connection.execute(_LAKE_OBJECTS).fetchall():
        rows = scalar(connection, f'SELECT count(*) FROM "{name}"')
        described = tuple(columns.get(name, ()))
        found.append(TableInfo(name, kind, comment or "", rows, described))
    return found


_LAKE_OBJECTS = """
    SELECT table_name, 'table', comment FROM duckdb_tables() WHERE database_name = 'lake'
    UNION ALL
    SELECT view_name, 'view', comment FROM duckdb_views()
    WHERE database_name = 'lake' AND NOT internal
    ORDER BY 2, 1
"""
