"""Every dataset version as plain Parquet, for whoever has neither DuckLake nor kontext.

datasets/<name>/v<n>/<table>.parquet   zstd, sorted by key; any Parquet reader reads it
datasets/<name>/v<n>/version.json      rows and SHA-256 of every table; written last
"""

import json
import tempfile
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from kontext.errors import ObjectExists
from kontext.store.catalog.catalog import Catalog
from kontext.store.catalog.rows import scalar
from kontext.store.catalog.versions import DatasetVersion
from kontext.store.lake.ddl import quote
from kontext.store.objects import ObjectStore, sha256_file
from schemas.catalog import DATASET_TABLES


def version_prefix(name: str, version: int) -> str:
    """Where a version's Parquet lies in the store."""
    return f"datasets/{name}/v{version}/"


def export_version(catalog: Catalog, objects: ObjectStore, version: DatasetVersion) -> str:
    """Write a version's tables as Parquet unless they are there; returns their prefix.

    Raises CatalogError where the catalog cannot be read, StoreError where the store cannot be
    written.
    """
    prefix = version_prefix(version.name, version.version)
    if objects.exists(f"{prefix}version.json"):
        return prefix
    tables: dict[str, dict[str, Any]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="kontext-export-") as temporary,
        closing(catalog.connect(at=version.snapshot_id)) as connection,
    ):
        present = {row[0] for row in connection.execute("SHOW TABLES").fetchall()}
        for table in (*DATASET_TABLES, "pair_facts"):
            if table not in present:  # a version from before the table
                continue
            path = Path(temporary, f"{table}.parquet")
            connection.execute(
                f"COPY (SELECT * EXCLUDE (dataset) FROM {table} "
                f"WHERE dataset = {quote(version.name)}) TO {quote(str(path))} "
                "(FORMAT parquet, COMPRESSION zstd)"
            )
            rows = scalar(connection, f"SELECT count(*) FROM {quote(str(path))}")
            objects.put_file(f"{prefix}{table}.parquet", path)
            tables[table] = {"rows": rows, "sha256": sha256_file(path)}
            path.unlink()
    about = {
        "dataset": version.name,
        "version": version.version,
        "snapshot_id": version.snapshot_id,
        "dataset_digest": version.dataset_digest,
        "tables": tables,
    }
    data = json.dumps(about, sort_keys=True, indent=1).encode()
    with suppress(ObjectExists):  # somebody exported the same version meanwhile
        objects.put(f"{prefix}version.json", data, if_absent=True)
    return prefix
