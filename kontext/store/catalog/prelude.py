"""A `.sql` file that attaches the catalog, read-only, to any DuckDB client of the same version."""

import duckdb

from kontext.store.lake.connections import secret, statements
from kontext.store.lake.ddl import quote
from kontext.store.lake.extensions import extension
from kontext.store.lake.metadata import open_metadata
from kontext.store.objects import folder_url

_KEYS = {
    "KEY_ID": "getenv('AWS_ACCESS_KEY_ID')",
    "SECRET": "getenv('AWS_SECRET_ACCESS_KEY')",
    "SESSION_TOKEN": "getenv('AWS_SESSION_TOKEN')",
}


def prelude(location: str, store_url: str, snapshot: int | None = None) -> str:
    """The file's text. It holds no S3 keys: the client reads them from AWS_* when it runs it.

    `getenv` exists in the duckdb command line only; other clients of an S3 lake make a secret of
    their own in its place. Passwords in a postgres:// location are part of the text.
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
            statement = secret(_KEYS)
        lines.append(f"{statement};")
    return "\n".join(lines) + "\n"
