"""Keeping the lake small: old snapshots expire, small files are merged, unused files go.

Snapshots of dataset versions never expire, so `--at NAME@vN` answers afterwards as before.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import duckdb

from kontext.errors import CatalogError
from kontext.store.catalog.versions import DatasetVersion, versions
from kontext.store.lake.ddl import quote
from schemas.catalog import ABOUT_RUNS

Connection = duckdb.DuckDBPyConnection

# Every stage appends a few rows to these. A dataset's tables come in few large files sorted by key;
# merging would mix datasets, and replacing one would no longer drop whole files.
_APPENDED = (*ABOUT_RUNS, "datasets", "votes")


@dataclass(frozen=True)
class Compaction:
    """What compaction did, or would do."""

    snapshots: int = 0  # expired
    merged: int = 0  # small files that became part of larger ones
    files: int = 0  # deleted: no snapshot has needed them for the grace period


def compact(connection: Connection, grace: timedelta, *, dry_run: bool) -> Compaction:
    """Compact the attached lake; the caller keeps other writers out.

    A snapshot expires when it is older than `grace`, no dataset version and not the newest. Files
    that nothing needs any more are deleted `grace` after that was noticed, because a reader may
    still be at them. Files that this catalog never knew stay: they may belong to another catalog
    over the same store.
    """
    limit = f"TIMESTAMPTZ {quote((datetime.now(UTC) - grace).isoformat())}"
    old = [row[0] for row in connection.execute(_EXPIRED.format(limit=limit)).fetchall()]
    unused = f"CALL ducklake_cleanup_old_files('lake', older_than => {limit}, dry_run => {dry_run})"
    if dry_run:
        return Compaction(len(old), 0, len(connection.execute(unused).fetchall()))
    if old:
        connection.execute(f"CALL ducklake_expire_snapshots('lake', versions => {old})")
    merged = sum(_merge(connection, table) for table in _APPENDED)
    return Compaction(len(old), merged, len(connection.execute(unused).fetchall()))


def forget(
    connection: Connection,
    gone: Sequence[DatasetVersion],
    transact: Callable[[Callable[[Connection], None], str, dict[str, str]], None],
) -> None:
    """Expire every snapshot that shows one of these versions, and delete what only those need.

    `transact` runs work in one transaction. Raises CatalogError where a version is the newest.
    """
    newest = {version.name: version for version in versions(connection)}
    for version in gone:
        if newest.get(version.name) == version:
            raise CatalogError(f"{version} is the newest version of its dataset: sweep first")

    def delete(inside: Connection) -> None:
        for version in gone:
            sql = "DELETE FROM datasets WHERE name = ? AND version = ?"
            inside.execute(sql, [version.name, version.version])

    transact(delete, f"forget {', '.join(map(str, gone))}", {})
    # a version is seen from its own snapshot until the next one of its dataset replaces it
    rest = versions(connection)
    spans = [
        (v.snapshot_id, min(later.snapshot_id for later in rest if _follows(later, v)))
        for v in gone
    ]
    known = [row[0] for row in connection.execute(_SNAPSHOTS).fetchall()]
    shown = [one for one in known if any(first <= one < after for first, after in spans)]
    if shown:
        connection.execute(f"CALL ducklake_expire_snapshots('lake', versions => {shown})")
    connection.execute("CALL ducklake_cleanup_old_files('lake', cleanup_all => true)")


def _follows(later: DatasetVersion, version: DatasetVersion) -> bool:
    return later.name == version.name and later.version > version.version


def _merge(connection: Connection, table: str) -> int:
    """How many files of a table were merged; rows that lie in the metadata become a file first."""
    connection.execute(f"CALL ducklake_flush_inlined_data('lake', table_name => '{table}')")
    done = connection.execute(f"CALL ducklake_merge_adjacent_files('lake', '{table}')").fetchall()
    return sum(processed for _, _, processed, _ in done)


_SNAPSHOTS = "SELECT snapshot_id FROM ducklake_snapshots('lake') ORDER BY snapshot_id"
_EXPIRED = """
    SELECT snapshot_id FROM ducklake_snapshots('lake')
    WHERE snapshot_time < {limit}
        AND snapshot_id NOT IN (SELECT snapshot_id FROM datasets)
        AND snapshot_id <> (SELECT id FROM ducklake_current_snapshot('lake'))
    ORDER BY snapshot_id
"""
