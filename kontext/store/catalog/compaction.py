"""Keeping the lake small: old snapshots expire, small files are merged, unused files go.

Snapshots of dataset versions never expire, so `--at NAME@vN` answers afterwards as before.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import duckdb

from kontext.store.lake.ddl import quote
from schemas.catalog import ABOUT_RUNS

Connection = duckdb.DuckDBPyConnection

# Every stage appends a few rows to these. A dataset's tables come in few large files sorted by key;
# merging would mix datasets, and replacing one would no longer drop whole files.
_APPENDED = (*ABOUT_RUNS, "datasets")


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


def _merge(connection: Connection, table: str) -> int:
    """How many files of a table were merged; rows that lie in the metadata become a file first."""
    connection.execute(f"CALL ducklake_flush_inlined_data('lake', table_name => '{table}')")
    done = connection.execute(f"CALL ducklake_merge_adjacent_files('lake', '{table}')").fetchall()
    return sum(processed for _, _, processed, _ in done)


_EXPIRED = """
    SELECT snapshot_id FROM ducklake_snapshots('lake')
    WHERE snapshot_time < {limit}
        AND snapshot_id NOT IN (SELECT snapshot_id FROM datasets)
        AND snapshot_id <> (SELECT id FROM ducklake_current_snapshot('lake'))
    ORDER BY snapshot_id
"""
