"""The catalog: a DuckLake over the object store. Parquet for data, SQLite or Postgres for metadata.

Readers attach read-only and may look at any past snapshot. Everything that writes goes through one
lock and one transaction: concurrent writers on SQLite fail with "database is locked", and dataset
versions are numbered in order.
"""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from kontext.errors import CatalogError
from kontext.store.artifacts.artifact_store import Artifact
from kontext.store.catalog import rows
from kontext.store.catalog.compaction import Compaction, compact, forget
from kontext.store.catalog.describe import TableInfo, describe
from kontext.store.catalog.facts import refresh_facts
from kontext.store.catalog.rows import scalar
from kontext.store.catalog.versions import DatasetVersion, latest_version, snapshot_of, versions
from kontext.store.catalog.views import check_thresholds
from kontext.store.lake import migrations, readonly
from kontext.store.lake.connections import attach, missing_files, release, restrict
from kontext.store.lake.metadata import open_metadata
from kontext.store.objects import folder_url
from schemas.catalog import ABOUT_RUNS, DATASET_TABLES, DATASETS
from schemas.manifest import Manifest

T = TypeVar("T")
Connection = duckdb.DuckDBPyConnection
_RETRIES = 8


class Catalog:
    """The lake whose metadata is at `path` and whose data is at `<store_url>/catalog/`.

    `path` is a SQLite file or postgres://user:password@host/database.
    """

    def __init__(self, path: str | Path, store_url: str) -> None:
        self._metadata = open_metadata(path)
        self.path = self._metadata.location
        self._data = folder_url(store_url, "catalog")
        self._migrated = False

    def __str__(self) -> str:
        return self._metadata.label

    def migrate(self) -> None:
        """Create or update tables and views. The only place that does."""
        if not self._migrated and self._metadata.exists():
            with self._connect(read_only=True) as connection:
                self._migrated = _current(connection)
        if self._migrated:
            return
        about = {"schema": migrations.SCHEMA_VERSION}
        self._commit(migrations.migrate, "create tables and views", about)
        self._migrated = True

    def move(self) -> None:
        """Let a catalog that was copied together with its store know where its data lies now.

        Raises CatalogError when a file that the catalog knows did not come along.
        """
        self._require()
        with closing(attach(self._metadata, self._data, read_only=True, moved=True)) as connection:
            missing = missing_files(connection, self._data)
        if missing:
            raise CatalogError(
                f"{len(missing)} files of {self} are not in {self._data} ({missing[0]}): copy the "
                "whole store, or make the catalog again with `kontext catalog rebuild`"
            )
        self._metadata.move(self._data.removeprefix("file://"))

    def compact(self, grace: timedelta, *, dry_run: bool) -> Compaction:
        """Expire snapshots, merge small files, remove unused ones."""
        if not self._metadata.exists():
            return Compaction()
        try:
            with self._metadata.lock(), self._connect(read_only=False) as connection:
                return compact(connection, grace, dry_run=dry_run)
        except duckdb.Error as error:
            text = self._metadata.hide(str(error)).strip()
            raise CatalogError(f"cannot compact the catalog {self}: {text}") from error

    def forget(self, known: Sequence[DatasetVersion]) -> None:
        """Let versions of datasets be gone, with the files that only they and older ones need.

        Raises CatalogError where one is its dataset's newest.
        """
        if not known:
            return
        with self._metadata.lock(), self._connect(read_only=False) as connection:
            forget(connection, known, partial(self._transact, connection))

    def record(self, manifest: Manifest, files: Artifact | None = None) -> bool:
        """Record a finished stage in the tables about runs; False if it is there already.

        `files` are the artifact's: an evaluation's items are recorded from them.
        """
        tables = rows.manifest_rows(manifest, files)
        key = {"stage": manifest.stage, "digest": manifest.digest}

        def missing(connection: Connection) -> list[str]:
            found = (scalar(connection, rows.present(name), key) for name in tables)
            return [name for name, there in zip(tables, found, strict=True) if not there]

        def add(connection: Connection) -> bool:
            names = missing(connection)
            for name in names:
                rows.insert(connection, name, tables[name])
            return bool(names)

        about = {**key, "run": manifest.run}
        message = f"{manifest.stage}/{manifest.digest}"
        if self._metadata.exists():
            # attaching costs most, so the connection that looks is the one that writes
            with self._connect(read_only=False) as connection:
                self._migrated = _current(connection)
                if self._migrated and not missing(connection):
                    return False
                if self._migrated:
                    with self._metadata.lock():
                        return self._transact(connection, add, message, about)
        self.migrate()
        return self._commit(add, message, about)

    def add(self, name: str, table: pa.Table, key: str) -> int:
        """Append the rows whose `key` the table does not have yet; how many those were."""
        self.migrate()
        work = partial(rows.insert_new, name=name, table=table, key=key)
        return self._commit(work, f"{name}: {table.num_rows} rows", {"table": name})

    def commit_dataset(
        self,
        name: str,
        dataset_digest: str,
        tables: Mapping[str, rows.TableSource],
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
            latest = latest_version(connection, name)
            if latest is not None and latest.dataset_digest == dataset_digest:
                return latest
            for table in DATASET_TABLES:
                if latest is not None:
                    connection.execute(f'DELETE FROM "{table}" WHERE dataset = ?', [name])
                rows.insert_dataset(connection, table, name, tables[table])
            refresh_facts(connection, name)
            version = 1 if latest is None else latest.version + 1
            # the lock makes us the only writer, so the next snapshot is ours
            snapshot = scalar(connection, "SELECT id + 1 FROM ducklake_current_snapshot('lake')")
            row = {
                "name": name,
                "version": version,
                "snapshot_id": snapshot,
                "dataset_digest": dataset_digest,
                "inputs": rows.parents(inputs),
                "images": scalar(connection, _COUNT.format("images"), [name]),
                "pairs": scalar(connection, _COUNT.format("pairs"), [name]),
                "message": message,
                "committed_at": datetime.now(UTC),
            }
            rows.insert(connection, "datasets", pa.Table.from_pylist([row], schema=DATASETS))
            return DatasetVersion(name, version, snapshot, dataset_digest, created=True)

        about = {"dataset": name, "digest": dataset_digest, "inputs": dict(inputs)}
        found = self._commit(commit, message or f"dataset {name}", about)
        self._check_snapshot(found)
        return found

    def datasets(self) -> list[DatasetVersion]:
        """All dataset versions, oldest first."""
        if not self._metadata.exists():
            return []
        with self._connect(read_only=True) as connection:
            return versions(connection)

    def inputs(self, version: DatasetVersion) -> list[tuple[str, str]]:
        """(stage, digest) of the artifacts that a dataset version was made from."""
        with self._connect(read_only=True) as connection:
            sql = "SELECT inputs FROM datasets WHERE name = ? AND version = ?"
            made = scalar(connection, sql, [version.name, version.version])
        return [(one["stage"], one["digest"]) for one in made]

    def newest_input(self, dataset: str, stage: str) -> str:
        """Digest of the stage's artifact that a dataset's latest version was made from, or ""."""
        if not self.datasets():
            return ""
        with self._connect(read_only=True) as connection:
            row = connection.execute(_NEWEST_INPUT, [dataset, stage]).fetchone()
        return str(row[0]) if row else ""

    def referenced(self) -> frozenset[tuple[str, str]]:
        """Artifacts (stage, digest) that some dataset version was made from, index included."""
        if not self.datasets():
            return frozenset()
        with self._connect(read_only=True) as connection:
            return frozenset(connection.execute(_REFERENCED).fetchall())

    def query(
        self,
        sql: str,
        at: str | int | None = None,
        timeout: float | None = None,
        dataset: str | Callable[[], str] = "",
    ) -> pa.Table:
        """Run one SELECT over the lake's tables and views, now or as of `at`.

        The query can neither write nor read anything but the lake: see
        `kontext.store.lake.readonly`.

        Args:
            at: a snapshot id, or NAME@vN for a dataset version.
            timeout: in seconds.
            dataset: tables and views hold the rows of this one only; empty: of all. A function is
                asked for it where the query reads such tables and does not name `dataset` itself.

        Raises CatalogError: no catalog or data yet, unknown version or dataset, SQL that is
        refused, SQL error, or out of time.
        """
        with closing(self.connect(at)) as connection:
            try:
                restrict(connection, self._data)
                query = readonly.check(connection, sql)
                self._require_data(connection, query.relations)
                self._narrow(connection, query, dataset)
                return _run(connection, query, timeout)
            except duckdb.Error as error:
                raise CatalogError(self._metadata.hide(str(error)).strip()) from error

    def connect(self, at: str | int | None = None) -> Connection:
        """A DuckDB connection of the caller's own with the lake attached read-only as `lake`.

        For trusted code: beside the lake it can do whatever its process can.

        Raises CatalogError as `query` does.
        """
        self._require()
        snapshot = None if at is None else self.snapshot(at)
        return attach(self._metadata, self._data, read_only=True, snapshot=snapshot)

    def tables(self, at: str | int | None = None) -> list[TableInfo]:
        """Tables and views with comments, row counts and columns."""
        self._require()
        with self._connect(True, None if at is None else self.snapshot(at)) as connection:
            return describe(connection)

    @contextmanager
    def _connect(self, read_only: bool, snapshot: int | None = None) -> Iterator[Connection]:
        connection = attach(self._metadata, self._data, read_only=read_only, snapshot=snapshot)
        try:
            yield connection
        finally:
            release(connection)

    def _commit(self, work: Callable[[Connection], T], message: str, about: Mapping[str, Any]) -> T:
        """Run `work` in one transaction under the writers' lock."""
        with self._metadata.lock(), self._connect(read_only=False) as connection:
            return self._transact(connection, work, message, about)

    def _transact(
        self,
        connection: Connection,
        work: Callable[[Connection], T],
        message: str,
        about: Mapping[str, Any],
    ) -> T:
        """Run `work` in one transaction, retried while others write. The caller has the lock."""
        extra = json.dumps(about, sort_keys=True)
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
                    text = self._metadata.hide(str(error))
                    raise CatalogError(f"cannot commit '{message}': {text}") from error
                time.sleep(0.05 * 2**attempt * random.random())
            except BaseException:
                _rollback(connection)
                raise
        raise AssertionError("unreachable")

    def _check_snapshot(self, found: DatasetVersion) -> None:
        with self._connect(read_only=True, snapshot=found.snapshot_id) as connection:
            latest = latest_version(connection, found.name)
        if latest is None or latest.dataset_digest != found.dataset_digest:
            raise CatalogError(
                f"snapshot {found.snapshot_id} does not hold dataset '{found.name}' version "
                f"{found.version}: something else wrote to {self} without its lock"
            )

    def _require(self) -> None:
        if not self._metadata.exists():
            raise CatalogError(f"no catalog at {self} yet: run the pipeline first")

    def _require_data(self, connection: Connection, used: frozenset[str]) -> None:
        """A dataset table without any dataset would answer 0, which looks like an answer."""
        if used - _NO_DATASET and not scalar(connection, "SELECT count(*) FROM datasets"):
            raise CatalogError(
                "no dataset is in the catalog at this version: `kontext run --only index` commits "
                "one (add --force if index is done already)"
            )

    def _narrow(
        self, connection: Connection, query: readonly.Query, dataset: str | Callable[[], str]
    ) -> None:
        if callable(dataset):
            asks = query.names_dataset or query.in_past
            open_to_all = not asks and query.relations & readonly.datasets_in(connection)
            dataset = dataset() if open_to_all else ""
        if dataset:
            known = dict.fromkeys(version.name for version in versions(connection))
            if dataset not in known:
                names = ", ".join(known) or "none"
                raise CatalogError(f"no dataset '{dataset}' in the catalog (known: {names})")
            readonly.narrow(connection, query, dataset)

    def snapshot(self, at: str | int) -> int:
        """The snapshot id that `at` (an id, or NAME@vN) means. Raises CatalogError."""
        self._require()
        with self._connect(read_only=True) as connection:
            return snapshot_of(connection, at)


_NEWEST_INPUT = """
    SELECT i.source.digest FROM datasets d, unnest(d.inputs) AS i (source)
    WHERE d.name = ? AND i.source.stage = ? ORDER BY d.version DESC LIMIT 1
"""
_REFERENCED = """
    SELECT i.source.stage, i.source.digest FROM datasets d, unnest(d.inputs) AS i (source)
    UNION
    SELECT m.stage, m.digest FROM metrics m JOIN datasets d ON d.dataset_digest = m.text
    WHERE m.stage = 'index' AND m.name = 'dataset_digest'
"""
_NO_DATASET = frozenset(
    (*ABOUT_RUNS, "votes", "datasets", "stage_runs", "lineage", "schema_version")
)
_COUNT = "SELECT count(*) FROM {} WHERE dataset = ?"


def _current(connection: Connection) -> bool:
    return migrations.present_schema(connection)[1] == migrations.wanted_digest()


def _run(connection: Connection, query: readonly.Query, timeout: float | None) -> pa.Table:
    timer = threading.Timer(timeout, connection.interrupt) if timeout else None
    if timer:
        timer.start()
    try:
        return readonly.run(connection, query)
    except duckdb.InterruptException as error:
        raise CatalogError(f"the query took longer than {timeout} s") from error
    finally:
        if timer:
            timer.cancel()


def _rollback(connection: Connection) -> None:
    try:
        connection.execute("ROLLBACK")
    except duckdb.TransactionException:  # the failure has ended the transaction already
        return


def _transient(error: duckdb.Error) -> bool:
    text = str(error).lower()
    return any(sign in text for sign in ("database is locked", "conflict", "retry"))
