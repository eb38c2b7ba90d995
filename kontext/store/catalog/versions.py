"""Dataset versions of a catalog, and the words that mean one: a name, NAME@vN, a snapshot id."""

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from kontext.errors import CatalogError
from kontext.store.catalog.rows import scalar


@dataclass(frozen=True)
class DatasetVersion:
    """One committed dataset version."""

    name: str
    version: int
    snapshot_id: int
    dataset_digest: str
    created: bool = False  # whether this call made it

    def __str__(self) -> str:
        return f"{self.name}@v{self.version}"


def versions(connection: duckdb.DuckDBPyConnection) -> list[DatasetVersion]:
    """All dataset versions of the attached lake, oldest first."""
    sql = "SELECT name, version, snapshot_id, dataset_digest FROM datasets ORDER BY snapshot_id"
    return [DatasetVersion(*row) for row in connection.execute(sql).fetchall()]


def latest_version(connection: duckdb.DuckDBPyConnection, name: str) -> DatasetVersion | None:
    """The newest version of a dataset, or None where there is no such dataset."""
    return next((v for v in reversed(versions(connection)) if v.name == name), None)


def snapshot_of(connection: duckdb.DuckDBPyConnection, at: str | int) -> int:
    """The snapshot id that `at` (an id, NAME@vN or NAME@N) means. Raises CatalogError."""
    text = str(at).strip()
    if text.isdigit():
        newest = int(scalar(connection, "SELECT id FROM ducklake_current_snapshot('lake')"))
        if int(text) <= newest:
            return int(text)
        raise CatalogError(f"no snapshot {text}: the newest is {newest}")
    known = versions(connection)
    for version in known:
        if text in (str(version), f"{version.name}@{version.version}"):
            return version.snapshot_id
    names = ", ".join(f"{v} ({v.snapshot_id})" for v in known) or "none"
    raise CatalogError(f"no version '{text}'; dataset versions (snapshots) are: {names}")


def find_version(known: Sequence[DatasetVersion], text: str) -> DatasetVersion:
    """The dataset version that NAME@vN or a bare NAME (its latest) means. Raises CatalogError.

    `known` are all versions, oldest first.
    """
    for version in reversed(known):
        if text in (version.name, str(version)):
            return version
    names = ", ".join(map(str, known)) or "none"
    raise CatalogError(f"no dataset version '{text}' (known: {names})")
