"""Connections to a DuckLake: here, and the `.sql` file with which other DuckDB clients connect."""

import os
import threading
from urllib.parse import urlsplit

import duckdb

from kontext.errors import CatalogError
from kontext.store.lake.ddl import quote
from kontext.store.lake.metadata import Metadata, extension, load, open_metadata
from kontext.store.objects import folder_url

_IDLE: list[duckdb.DuckDBPyConnection] = []  # loading the extensions costs ten times an ATTACH
_IDLE_LOCK = threading.Lock()
_KEYS = {
    "KEY_ID": "AWS_ACCESS_KEY_ID",
    "SECRET": "AWS_SECRET_ACCESS_KEY",
    "SESSION_TOKEN": "AWS_SESSION_TOKEN",
}


def attach(
    metadata: Metadata, data: str, read_only: bool, snapshot: int | None = None, moved: bool = False
) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection whose current database `lake` is the catalog.

    `data` is the folder or s3 prefix of its Parquet files, with a closing slash. `read_only`
    refuses writes and creates nothing; a past `snapshot` implies it. `moved` takes the data from
    `data`, wherever the metadata says it was.

    Raises CatalogError for a missing extension, an unusable catalog or an unknown snapshot.
    """
    connection = _loaded()
    try:
        for statement in statements(metadata, data, read_only, snapshot, moved):
            connection.execute(statement)
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
    metadata: Metadata, data: str, read_only: bool, snapshot: int | None = None, moved: bool = False
) -> list[str]:
    """The SQL that attaches the lake to any DuckDB connection with `ducklake` loaded."""
    found = [f"LOAD {quote(str(extension(metadata.extension)))}"]
    if data.startswith("s3://"):
        # for this connection, never stored
        keys = {name: quote(os.environ[key]) for name, key in _KEYS.items() if os.environ.get(key)}
        found += [f"LOAD {quote(str(extension('httpfs')))}", _secret(keys)]
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
    """From here on no file but the lake's data, no extension and no setting is within reach.

    It does not stop ATTACH and what extensions open by themselves: `readonly` does.
    """
    folder = quote(data.removeprefix("file://"))
    connection.execute("SET python_enable_replacements = false")  # FROM a_variable_of_ours
    connection.execute("SET autoload_known_extensions = false")
    connection.execute("SET allow_community_extensions = false")
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
        if (threads := os.environ.get("OMP_NUM_THREADS", "")).isdigit():
            connection.execute(f"SET threads = {max(1, int(threads))}")  # by default: every core
        load(connection, "ducklake")
    except BaseException:
        connection.close()
        raise
    return connection


def prelude(location: str, store_url: str, snapshot: int | None = None) -> str:
    """A `.sql` file that attaches a catalog, read-only, to any DuckDB client of the same version.

    It holds no S3 keys: the client reads them from AWS_* when it runs it. `getenv` exists in the
    duckdb command line only; other clients of an S3 lake make a secret of their own in its place.
    Passwords in a postgres:// location are part of the text.
    """
    metadata = open_metadata(location)
    data = folder_url(store_url, "catalog")
    lines = [
        f"-- kontext catalog {metadata.label}, read-only. DuckDB {duckdb.__version__}.",
        "-- duckdb -init FILE | harlequin -i FILE | connection.execute(open(FILE).read())",
        "SET TimeZone = 'UTC';",
        f"LOAD {quote(str(extension('ducklake')))};",
    ]
    for statement in statements(metadata, data, read_only=True, snapshot=snapshot):
        if statement.startswith("CREATE OR REPLACE SECRET"):
            statement = _secret({name: f"getenv('{key}')" for name, key in _KEYS.items()})
        lines.append(f"{statement};")
    return "\n".join(lines) + "\n"


def _secret(values: dict[str, str]) -> str:
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
