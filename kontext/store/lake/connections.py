"""Connections to a DuckLake."""

import os
import threading
from urllib.parse import urlsplit

import duckdb

from kontext.errors import CatalogError
from kontext.store.lake.ddl import quote
from kontext.store.lake.extensions import extension, load
from kontext.store.lake.metadata import Metadata

_IDLE: list[duckdb.DuckDBPyConnection] = []  # loading the extensions costs ten times an ATTACH
_IDLE_LOCK = threading.Lock()


def attach(
    metadata: Metadata,
    data: str,
    *,
    read_only: bool,
    snapshot: int | None = None,
    moved: bool = False,
) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection whose current database `lake` is the catalog.

    Args:
        metadata: where the lake's metadata is.
        data: folder or s3 prefix of its Parquet files, with a closing slash.
        read_only: refuse writes (and do not create anything).
        snapshot: look at this past snapshot; implies `read_only`.
        moved: look for the data at `data`, wherever the metadata says it was.

    Raises:
        CatalogError: missing extension, unusable catalog, unknown snapshot.
    """
    connection = _loaded()
    try:
        for statement in statements(
            metadata, data, read_only=read_only, snapshot=snapshot, moved=moved
        ):
            connection.execute(statement)
        if not (read_only or snapshot is not None):
            connection.execute("CALL lake.set_option('parquet_compression', 'zstd')")
    except duckdb.Error as error:
        connection.close()
        text = metadata.hide(str(error)).strip()
        if "DATA_PATH" in text:
            text += " (was the store moved or copied? `kontext catalog move` or `rebuild`)"
        raise CatalogError(f"cannot open the catalog {metadata.label}: {text}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def statements(
    metadata: Metadata,
    data: str,
    *,
    read_only: bool,
    snapshot: int | None = None,
    moved: bool = False,
) -> list[str]:
    """The SQL that attaches the lake to any DuckDB connection with `ducklake` loaded."""
    found = [f"LOAD {quote(str(extension(metadata.extension)))}"]
    if data.startswith("s3://"):
        found += [f"LOAD {quote(str(extension('httpfs')))}", _secret()]
    options = [f"DATA_PATH {quote(data.removeprefix('file://'))}"]
    options += metadata.options(read_only or snapshot is not None)
    if snapshot is not None:
        options.append(f"SNAPSHOT_VERSION {int(snapshot)}")
    if moved:
        options.append("OVERRIDE_DATA_PATH true")
    target = quote(f"ducklake:{metadata.target}")
    return [*found, f"ATTACH {target} AS lake ({', '.join(options)})", "USE lake"]


def missing_files(connection: duckdb.DuckDBPyConnection, data: str) -> list[str]:
    """Files that some snapshot of the attached lake needs and that do not lie at `data`."""
    folder = data.removeprefix("file://")
    sql = _KNOWN_FILES.format(folder=quote(folder))
    known = [row[0] for row in connection.execute(sql).fetchall()]
    there = connection.execute(f"SELECT file FROM glob({quote(folder + '**')})").fetchall()
    return sorted(set(known) - {row[0] for row in there})


# paths in the metadata are relative: file to table, table to schema, schema to the data path
_KNOWN_FILES = """
    SELECT DISTINCT {folder} || s.path || t.path || f.path FROM (
        SELECT table_id, path FROM __ducklake_metadata_lake.ducklake_data_file
        UNION ALL SELECT table_id, path FROM __ducklake_metadata_lake.ducklake_delete_file
    ) f
    JOIN __ducklake_metadata_lake.ducklake_table t USING (table_id)
    JOIN __ducklake_metadata_lake.ducklake_schema s USING (schema_id)
"""


def restrict(connection: duckdb.DuckDBPyConnection, data: str) -> None:
    """From here on the connection reaches the lake's data only, and no setting can be changed."""
    folder = quote(data.removeprefix("file://"))
    connection.execute(f"SET allowed_directories = [{folder}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


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
        load(connection, "ducklake")
    except BaseException:
        connection.close()
        raise
    return connection


def _secret() -> str:
    """The S3 secret for this connection, from AWS_* (never stored)."""
    variables = {
        "KEY_ID": "AWS_ACCESS_KEY_ID",
        "SECRET": "AWS_SECRET_ACCESS_KEY",
        "SESSION_TOKEN": "AWS_SESSION_TOKEN",
    }
    values = {o: quote(os.environ[v]) for o, v in variables.items() if os.environ.get(v)}
    return secret(values)


def secret(values: dict[str, str]) -> str:
    """CREATE SECRET with these options (SQL expressions) and the region and endpoint of AWS_*."""
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    parts = ["TYPE s3", *(f"{name} {value}" for name, value in values.items())]
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
