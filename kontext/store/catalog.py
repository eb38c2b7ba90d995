"""The catalog: a DuckLake over the object store. Parquet for data, SQLite for metadata.

Readers attach read-only and may look at any past snapshot. Everything that writes goes through one
file lock and one transaction, because concurrent writers on SQLite fail with "database is locked".
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import duckdb
import pyarrow as pa
from filelock import FileLock

from kontext.errors import CatalogError
from kontext.store.ddl import add_columns, create_table, quote
from kontext.store.lake import attach, release
from kontext.store.rows import manifest_rows, parents
from kontext.store.views import check_thresholds, views, views_digest
from schemas.catalog import DATASET_TABLES, DATASETS, TABLES
from schemas.manifest import Manifest

T = TypeVar("T")
Connection = duckdb.DuckDBPyConnection
TableSource: TypeAlias = pa.Table | Sequence[Path]  # rows, or Parquet files that hold them
_RETRIES = 8


@dataclass(frozen=True)
class DatasetVersion:
    """One committed dataset version."""

    name: str
    version: int
    snapshot_id: int
    dataset_digest: str
    created: bool = False  # whether this call made it


@dataclass(frozen=True)
class TableInfo:
    """A table or view, for people."""

    name: str
    kind: str  # table or view
    comment: str
    rows: int
    columns: tuple[tuple[str, str, str], ...]  # name, type, comment


class Catalog:
    """The lake whose metadata is at `path` and whose data is at `<store_url>/catalog/`."""

    def __init__(self, path: str | Path, store_url: str) -> None:
        self.path = Path(path).expanduser().resolve()
        self._data = f"{store_url.rstrip('/')}/catalog/"
        self._migrated = False

    def migrate(self) -> None:
        """Create or update tables and views. The only place that does."""
        wanted = _schema_wanted()
        if not self._migrated and self.path.exists():
            with self._connect(read_only=True) as connection:
                self._migrated = _schema_found(connection) == wanted
        if self._migrated:
            return

        def create(connection: Connection) -> None:
            known: dict[str, set[str]] = {}
            for table, column, *_ in connection.execute(_LAKE_COLUMNS).fetchall():
                known.setdefault(table, set()).add(column)
            for name, schema in TABLES.items():
                present = known.get(name)
                missing = add_columns(name, schema, present or set())
                for statement in create_table(name, schema) if present is None else missing:
                    connection.execute(statement)
            if "schema_version" not in known:
                connection.execute("CREATE TABLE schema_version (digest VARCHAR)")
                connection.execute(f"COMMENT ON TABLE schema_version IS {quote(_VERSION_COMMENT)}")
            for view in views():
                connection.execute(f'CREATE OR REPLACE VIEW "{view.name}" AS {view.sql}')
                connection.execute(f'COMMENT ON VIEW "{view.name}" IS {quote(view.comment)}')
            connection.execute("DELETE FROM schema_version")
            connection.execute("INSERT INTO schema_version VALUES (?)", [wanted])

        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._commit(create, "create tables and views", {"schema": wanted})
        self._migrated = True

    def record(self, manifest: Manifest) -> bool:
        """Record a finished stage in runs, artifacts and metrics; False if it is there already."""
        key = [manifest.stage, manifest.digest]
        exists = "SELECT count(*) FROM runs WHERE stage = ? AND digest = ?"
        if self.path.exists():
            with self._connect(read_only=True) as connection:
                self._migrated = _schema_found(connection) == _schema_wanted()
                if self._migrated and _one(connection, exists, key):
                    return False
        self.migrate()

        def insert(connection: Connection) -> bool:
            if _one(connection, exists, key):
                return False
            for name, table in manifest_rows(manifest).items():
                _insert(connection, name, table)
            return True

        about = {"stage": manifest.stage, "digest": manifest.digest, "run": manifest.run}
        return self._commit(insert, f"{manifest.stage}/{manifest.digest}", about)

    def commit_dataset(
        self,
        name: str,
        dataset_digest: str,
        tables: Mapping[str, TableSource],
        inputs: Mapping[str, str],
        message: str = "",
    ) -> DatasetVersion:
        """Make `tables` the new version of a dataset, in one snapshot.

        Does nothing when the latest version has the same digest. `tables` maps every name of
        schemas.catalog.DATASET_TABLES to its rows, without the dataset column.

        Raises CatalogError for missing tables or columns and unknown thresholds.
        """
        if missing := sorted(set(DATASET_TABLES) - set(tables)):
            raise CatalogError(f"dataset '{name}' lacks the tables {', '.join(missing)}")
        policy = tables["policy"]
        if isinstance(policy, pa.Table):
            check_thresholds(dict.fromkeys(policy["name"].to_pylist(), 0.0))
        self.migrate()

        def commit(connection: Connection) -> DatasetVersion:
            latest = _latest(connection, name)
            if latest is not None and latest.dataset_digest == dataset_digest:
                return latest
            for table in DATASET_TABLES:
                connection.execute(f'DELETE FROM "{table}" WHERE dataset = ?', [name])
                _insert_dataset(connection, table, name, tables[table])
            version = 1 if latest is None else latest.version + 1
            # the lock makes us the only writer, so the next snapshot is ours
            snapshot = 1 + int(_one(connection, "SELECT id FROM ducklake_current_snapshot('lake')"))
            row = {
                "name": name,
                "version": version,
                "snapshot_id": snapshot,
                "dataset_digest": dataset_digest,
                "inputs": parents(inputs),
                "images": _one(connection, _COUNT.format("images"), [name]),
                "pairs": _one(connection, _COUNT.format("pairs"), [name]),
                "message": message,
                "committed_at": datetime.now(UTC),
            }
            _insert(connection, "datasets", pa.Table.from_pylist([row], schema=DATASETS))
            return DatasetVersion(name, version, snapshot, dataset_digest, created=True)

        about = {"dataset": name, "digest": dataset_digest, "inputs": dict(inputs)}
        found = self._commit(commit, message or f"dataset {name}", about)
        self._check_snapshot(found)
        return found

    def set_threshold(self, dataset: str, name: str, value: float) -> None:
        """Change a dataset's threshold; `name@relation_class` overrides `name` for one class."""
        check_thresholds({name: value})
        self.migrate()

        def update(connection: Connection) -> None:
            if _latest(connection, dataset) is None:
                raise CatalogError(f"no dataset '{dataset}' in the catalog")
            connection.execute("DELETE FROM policy WHERE dataset = ? AND name = ?", [dataset, name])
            connection.execute("INSERT INTO policy VALUES (?, ?, ?)", [dataset, name, value])

        self._commit(update, f"{dataset}: {name} = {value}", {"dataset": dataset})

    def datasets(self) -> list[DatasetVersion]:
        """All dataset versions, oldest first."""
        if not self.path.exists():
            return []
        with self._connect(read_only=True) as connection:
            rows = connection.execute(f"{_VERSIONS} ORDER BY snapshot_id").fetchall()
        return [DatasetVersion(*row) for row in rows]

    def query(
        self, sql: str, at: str | int | None = None, timeout: float | None = None
    ) -> pa.Table:
        """Run read-only SQL over the lake, now or as of `at`.

        `at` is a snapshot id, or NAME@vN for a dataset version. `timeout` is in seconds.

        Raises:
            CatalogError: no catalog yet, no data yet, unknown version, SQL error, or out of time.
        """
        self._require()
        snapshot = None if at is None else self._snapshot(at)
        connection = attach(self.path, self._data, read_only=True, snapshot=snapshot)
        try:
            self._require_data(connection, sql)
            return _run(connection, sql, timeout)
        except duckdb.Error as error:
            raise CatalogError(str(error).strip()) from error
        finally:
            connection.close()  # not released: the query may have changed its settings

    def tables(self, at: str | int | None = None) -> list[TableInfo]:
        """Tables and views with comments, row counts and columns."""
        self._require()
        snapshot = None if at is None else self._snapshot(at)
        with self._connect(read_only=True, snapshot=snapshot) as connection:
            columns: dict[str, list[tuple[str, str, str]]] = {}
            for table, *column in connection.execute(_LAKE_COLUMNS).fetchall():
                columns.setdefault(table, []).append((column[0], column[1], column[2] or ""))
            found = []
            for name, kind, comment in connection.execute(_LAKE_OBJECTS).fetchall():
                rows = int(_one(connection, f'SELECT count(*) FROM "{name}"'))
                described = tuple(columns.get(name, ()))
                found.append(TableInfo(name, kind, comment or "", rows, described))
            return found

    @contextmanager
    def _connect(self, read_only: bool, snapshot: int | None = None) -> Iterator[Connection]:
        connection = attach(self.path, self._data, read_only=read_only, snapshot=snapshot)
        try:
            yield connection
        finally:
            release(connection)

    def _commit(self, work: Callable[[Connection], T], message: str, about: Mapping[str, Any]) -> T:
        """Run `work` in one transaction under the writers' lock, retried while others write."""
        extra = json.dumps(about, sort_keys=True)
        with FileLock(f"{self.path}.lock"), self._connect(read_only=False) as connection:
            for attempt in range(_RETRIES):
                try:
                    connection.execute("BEGIN")
                    result = work(connection)
                    connection.execute(
                        "CALL lake.set_commit_message('kontext', ?, extra_info => ?)",
                        [message, extra],
                    )
                    connection.execute("COMMIT")
                    return result
                except duckdb.Error as error:
                    _rollback(connection)
                    if not _transient(error) or attempt == _RETRIES - 1:
                        raise CatalogError(f"cannot commit '{message}': {error}") from error
                    time.sleep(0.05 * 2**attempt * random.random())
                except BaseException:
                    _rollback(connection)
                    raise
        raise AssertionError("unreachable")

    def _check_snapshot(self, found: DatasetVersion) -> None:
        with self._connect(read_only=True, snapshot=found.snapshot_id) as connection:
            latest = _latest(connection, found.name)
        if latest is None or latest.dataset_digest != found.dataset_digest:
            raise CatalogError(
                f"snapshot {found.snapshot_id} does not hold dataset '{found.name}' version "
                f"{found.version}: something else wrote to {self.path} without its lock"
            )

    def _require(self) -> None:
        if not self.path.exists():
            raise CatalogError(f"no catalog at {self.path} yet: run the pipeline first")

    def _require_data(self, connection: Connection, sql: str) -> None:
        """A dataset table without any dataset would answer 0, which looks like an answer."""
        about_runs = {"runs", "artifacts", "metrics", "datasets", "stage_runs", "lineage"}
        names = set(re.findall(r"[a-z_]+", sql.lower()))
        ours = set(TABLES) | {view.name for view in views()}
        if (names & ours) - about_runs and not _one(connection, "SELECT count(*) FROM datasets"):
            raise CatalogError(
                "no dataset is in the catalog at this version: `kontext run --only index` commits "
                "one (add --force if index is done already)"
            )

    def _snapshot(self, at: str | int) -> int:
        text = str(at).strip()
        known = self.datasets()
        if text.isdigit():
            with self._connect(read_only=True) as connection:
                newest = int(_one(connection, "SELECT id FROM ducklake_current_snapshot('lake')"))
            if int(text) <= newest:
                return int(text)
            raise CatalogError(f"no snapshot {text}: the newest is {newest}")
        for dataset in known:
            if text in (f"{dataset.name}@v{dataset.version}", f"{dataset.name}@{dataset.version}"):
                return dataset.snapshot_id
        versions = ", ".join(f"{d.name}@v{d.version} ({d.snapshot_id})" for d in known) or "none"
        raise CatalogError(f"no version '{text}'; dataset versions (snapshots) are: {versions}")


_LAKE_TABLES = "SELECT table_name FROM duckdb_tables() WHERE database_name = 'lake'"
_LAKE_OBJECTS = """
    SELECT table_name, 'table', comment FROM duckdb_tables() WHERE database_name = 'lake'
    UNION ALL
    SELECT view_name, 'view', comment FROM duckdb_views()
    WHERE database_name = 'lake' AND NOT internal
    ORDER BY 2, 1
"""
_LAKE_COLUMNS = """
    SELECT table_name, column_name, data_type, comment FROM duckdb_columns()
    WHERE database_name = 'lake' AND NOT internal ORDER BY table_name, column_index
"""
_VERSIONS = "SELECT name, version, snapshot_id, dataset_digest FROM datasets"
_COUNT = "SELECT count(*) FROM {} WHERE dataset = ?"
_VERSION_COMMENT = "Which version of tables and views this catalog has."


def _schema_wanted() -> str:
    statements = [sql for name, schema in TABLES.items() for sql in create_table(name, schema)]
    return hashlib.sha256("\0".join([*statements, views_digest()]).encode()).hexdigest()


def _schema_found(connection: Connection) -> str:
    known = {row[0] for row in connection.execute(_LAKE_TABLES).fetchall()}
    if "schema_version" not in known:
        return ""
    return str(_one(connection, "SELECT max(digest) FROM schema_version"))


def _run(connection: Connection, sql: str, timeout: float | None) -> pa.Table:
    timer = threading.Timer(timeout, connection.interrupt) if timeout else None
    if timer:
        timer.start()
    try:
        return connection.execute(sql).to_arrow_table()
    except duckdb.InterruptException as error:
        raise CatalogError(f"the query took longer than {timeout} s") from error
    finally:
        if timer:
            timer.cancel()


def _one(connection: Connection, sql: str, parameters: Sequence[Any] = ()) -> Any:
    row = connection.execute(sql, parameters).fetchone()
    assert row is not None
    return row[0]


def _latest(connection: Connection, name: str) -> DatasetVersion | None:
    sql = f"{_VERSIONS} WHERE name = ? ORDER BY version DESC LIMIT 1"
    row = connection.execute(sql, [name]).fetchone()
    return DatasetVersion(*row) if row else None


def _insert(connection: Connection, name: str, table: pa.Table) -> None:
    connection.register("incoming", table)
    connection.execute(f'INSERT INTO "{name}" BY NAME SELECT * FROM incoming')
    connection.unregister("incoming")


def _insert_dataset(connection: Connection, name: str, dataset: str, rows: TableSource) -> None:
    columns = ", ".join(f'"{field.name}"' for field in list(DATASET_TABLES[name])[1:])
    if isinstance(rows, pa.Table):
        connection.register("incoming", rows)
        source = "incoming"
    elif rows:
        source = f"read_parquet([{', '.join(quote(str(path)) for path in rows)}])"
    else:
        return
    connection.execute(
        f'INSERT INTO "{name}" (dataset, {columns}) SELECT ?, {columns} FROM {source}', [dataset]
    )
    if isinstance(rows, pa.Table):
        connection.unregister("incoming")


def _rollback(connection: Connection) -> None:
    try:
        connection.execute("ROLLBACK")
    except duckdb.TransactionException:  # the failure has ended the transaction already
        return


def _transient(error: duckdb.Error) -> bool:
    text = str(error).lower()
    return any(sign in text for sign in ("database is locked", "conflict", "retry"))
