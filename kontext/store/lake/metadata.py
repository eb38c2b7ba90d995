"""Where a lake's metadata lives: a SQLite file (one machine), or Postgres (many users).

DuckDB's extensions that read it come from installed wheels: nothing is downloaded.
"""

import importlib.util
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import duckdb
from filelock import FileLock

from kontext.errors import CatalogError
from kontext.store.lake.ddl import quote

_LOCK = 0x6B6F6E74  # "kont": our advisory lock's number in that database


def load(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Load an installed extension. Raises CatalogError where its wheel is missing."""
    connection.execute(f"LOAD {quote(str(extension(name)))}")


def extension(name: str) -> Path:
    """The DuckDB extension file that the wheel `duckdb-extension-<name>` brought."""
    spec = importlib.util.find_spec(f"duckdb_extension_{name}")
    version = f"v{duckdb.__version__}"
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder, "extensions", version, f"{name}.duckdb_extension")
        if path.is_file():
            return path
    package = f"duckdb-extension-{name.replace('_', '-')}"
    raise CatalogError(f"DuckDB {version} needs {package} {version[1:]}: pip install {package}")


class Metadata(ABC):
    """One lake's metadata."""

    location: str | Path  # what `open_metadata` takes, in any process
    label: str  # for messages: never holds a password
    extension: str  # DuckDB extension that reads it
    target: str  # what follows "ducklake:"

    def options(self, read_only: bool) -> list[str]:
        """Options of ATTACH."""
        return ["READ_ONLY"] if read_only else []

    @abstractmethod
    def exists(self) -> bool:
        """Whether a lake was ever made here."""

    @abstractmethod
    def lock(self) -> AbstractContextManager[Any]:
        """While it is held, nobody else writes. The system releases it if we die."""

    @abstractmethod
    def move(self, data: str) -> None:
        """Point the lake at the folder or prefix its data files were copied to."""

    def hide(self, text: str) -> str:
        """A message without the password."""
        return text.replace(str(self.location), self.label)


class SqliteMetadata(Metadata):
    """A file. WAL lets readers go on while the one writer commits."""

    extension = "sqlite_scanner"

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().resolve()
        self.location = self.path
        self.label = str(self.path)
        self.target = f"sqlite:{self.path}"

    def options(self, read_only: bool) -> list[str]:
        """See `Metadata`."""
        busy = [*super().options(read_only), "META_BUSY_TIMEOUT 5000"]
        return busy if read_only else [*busy, "META_JOURNAL_MODE 'WAL'"]

    def exists(self) -> bool:
        """See `Metadata`."""
        return self.path.exists()

    @contextmanager
    def lock(self) -> Iterator[Any]:
        """See `Metadata`. A new file is readable by its user only: captions are in it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock"):
            new = not self.path.exists()
            yield
            if new and self.path.exists():
                self.path.chmod(0o600)

    def move(self, data: str) -> None:
        """See `Metadata`."""
        try:
            with closing(sqlite3.connect(self.path)) as database, database:
                database.execute(_MOVE, [data])
        except sqlite3.Error as error:
            raise CatalogError(f"cannot change the catalog {self.label}: {error}") from error


class PostgresMetadata(Metadata):
    """A database. Writers take turns by an advisory lock that ends with their connection."""

    extension = "postgres_scanner"

    def __init__(self, url: str) -> None:
        self.location = url
        parts = urlsplit(url)
        user = f"{parts.username}@" if parts.username else ""
        host = f"{parts.hostname or ''}:{parts.port}" if parts.port else parts.hostname or ""
        self.label = urlunsplit((parts.scheme, user + host, parts.path, "", ""))
        self.target = f"postgres:{url}"

    def exists(self) -> bool:
        """See `Metadata`."""
        with self._database() as database:
            sql = "SELECT count(*) FROM information_schema.tables WHERE table_name = "
            sql = f"SELECT * FROM postgres_query('meta', {quote(sql + quote('ducklake_metadata'))})"
            row = database.execute(sql).fetchone()
            return bool(row and row[0])

    @contextmanager
    def lock(self) -> Iterator[None]:
        """See `Metadata`."""
        with self._database() as database:
            database.execute("BEGIN")
            call = quote(f"SELECT pg_advisory_xact_lock({_LOCK})::text")
            database.execute(f"SELECT * FROM postgres_query('meta', {call})").fetchall()
            try:
                yield
            finally:
                database.execute("COMMIT")

    def move(self, data: str) -> None:
        """See `Metadata`."""
        with self._database() as database:
            statement = _MOVE.replace("?", quote(data))
            database.execute(f"CALL postgres_execute('meta', {quote(statement)})")

    @contextmanager
    def _database(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with duckdb.connect() as connection:
            load(connection, self.extension)
            try:
                connection.execute(f"ATTACH {quote(str(self.location))} AS meta (TYPE postgres)")
            except duckdb.Error as error:
                text = self.hide(str(error)).strip()
                raise CatalogError(f"cannot reach the catalog {self.label}: {text}") from error
            yield connection


_MOVE = "UPDATE ducklake_metadata SET value = ? WHERE key = 'data_path'"


def open_metadata(location: str | Path) -> Metadata:
    """`postgres://user:password@host/database`, or the path of a SQLite file.

    Raises CatalogError for any other scheme.
    """
    scheme, separator, _ = str(location).partition("://")
    if not separator:
        return SqliteMetadata(Path(location))
    if scheme in ("postgres", "postgresql"):
        return PostgresMetadata(str(location))
    raise CatalogError(f"catalog '{scheme}://': a file's path or postgres://… is known")
