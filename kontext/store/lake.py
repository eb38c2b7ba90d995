"""Connections to a DuckLake. Extensions come from installed wheels: nothing is downloaded."""

from __future__ import annotations

import importlib.util
import os
import threading
from pathlib import Path
from urllib.parse import urlsplit

import duckdb

from kontext.errors import CatalogError
from kontext.store.ddl import quote

_IDLE: list[duckdb.DuckDBPyConnection] = []  # loading the extensions costs ten times an ATTACH
_IDLE_LOCK = threading.Lock()


def attach(
    path: Path, data: str, *, read_only: bool, snapshot: int | None = None
) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection whose current database `lake` is the catalog at `path`.

    Args:
        path: SQLite file with the lake's metadata.
        data: folder or s3 prefix of its Parquet files, with a closing slash.
        read_only: refuse writes (and do not create anything).
        snapshot: look at this past snapshot; implies `read_only`.

    Raises:
        CatalogError: missing extension, unusable catalog, unknown snapshot.
    """
    connection = _loaded()
    try:
        if data.startswith("s3://"):
            connection.execute(f"LOAD {quote(str(extension('httpfs')))}")
            connection.execute(_secret())
        options = [
            f"DATA_PATH {quote(data.removeprefix('file://'))}",
            "META_JOURNAL_MODE 'WAL'",
            "META_BUSY_TIMEOUT 5000",
        ]
        if read_only or snapshot is not None:
            options.append("READ_ONLY")
        if snapshot is not None:
            options.append(f"SNAPSHOT_VERSION {int(snapshot)}")
        target = quote(f"ducklake:sqlite:{path}")
        connection.execute(f"ATTACH {target} AS lake ({', '.join(options)})")
        connection.execute("USE lake")
        if not (read_only or snapshot is not None):
            connection.execute("CALL lake.set_option('parquet_compression', 'zstd')")
    except duckdb.Error as error:
        connection.close()
        raise CatalogError(f"cannot open the catalog {path}: {error}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def release(connection: duckdb.DuckDBPyConnection) -> None:
    """Detach the lake and keep the connection for the next `attach` of this process.

    Close connections that ran anybody's SQL instead: their settings would stay.
    """
    try:
        connection.execute("USE memory")
        connection.execute("DETACH lake")
    except duckdb.Error:
        connection.close()
        return
    with _IDLE_LOCK:
        _IDLE.append(connection)


def _loaded() -> duckdb.DuckDBPyConnection:
    with _IDLE_LOCK:
        if _IDLE:
            return _IDLE.pop()
    connection = duckdb.connect()
    try:
        connection.execute("SET autoinstall_known_extensions = false")
        connection.execute("SET TimeZone = 'UTC'")
        for name in ("ducklake", "sqlite_scanner"):
            connection.execute(f"LOAD {quote(str(extension(name)))}")
    except BaseException:
        connection.close()
        raise
    return connection


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


def _secret() -> str:
    """The S3 secret for this connection, from AWS_* (never stored)."""
    parts = ["TYPE s3"]
    variables = {
        "KEY_ID": "AWS_ACCESS_KEY_ID",
        "SECRET": "AWS_SECRET_ACCESS_KEY",
        "SESSION_TOKEN": "AWS_SESSION_TOKEN",
    }
    for option, variable in variables.items():
        if value := os.environ.get(variable):
            parts.append(f"{option} {quote(value)}")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    parts.append(f"REGION {quote(region)}")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        url = urlsplit(endpoint)
        parts += [
            f"ENDPOINT {quote(url.netloc)}",
            "URL_STYLE 'path'",
            f"USE_SSL {str(url.scheme == 'https').lower()}",
        ]
    return f"CREATE OR REPLACE SECRET kontext ({', '.join(parts)})"
