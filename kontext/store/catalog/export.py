"""Every dataset version as plain Parquet, for whoever has neither DuckLake nor kontext.

datasets/<name>/v<n>/<table>.parquet   zstd, sorted by key; any Parquet reader reads it
datasets/<name>/v<n>/shards/*.tar      its shards (kontext.store.artifacts.named_shards)
datasets/<name>/v<n>/version.json      rows and SHA-256 of every table and shard; written last
"""

import json
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from kontext.store.artifacts.named_shards import named, put_names, version_prefix
from kontext.store.catalog.catalog import Catalog
from kontext.store.catalog.rows import scalar
from kontext.store.catalog.versions import DatasetVersion
from kontext.store.lake.ddl import quote
from kontext.store.objects import ObjectStore, sha256_file
from schemas.catalog import DATASET_TABLES


def export_version(catalog: Catalog, objects: ObjectStore, version: DatasetVersion) -> str:
    """Write a version's tables as Parquet and name its shards, unless it is done; its prefix.

    Raises CatalogError where the catalog cannot be read, StoreError where the store cannot be
    written.
    """
    prefix = version_prefix(version.name, version.version)
    key = f"{prefix}version.json"
    # another catalog may have had this name and number, or kontext not yet have named shards
    before = json.loads(objects.get(key)) if objects.exists(key) else {}
    if before.get("dataset_digest") == version.dataset_digest and "shards" in before:
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
        rows = connection.execute(_SHARDS.format(quote(version.name))).fetch_arrow_table()
        shards = put_names(objects, prefix, named(rows.to_pylist()))
    about = {
        "dataset": version.name,
        "version": version.version,
        "snapshot_id": version.snapshot_id,
        "dataset_digest": version.dataset_digest,
        "tables": tables,
        "shards": shards,
    }
    objects.put(key, json.dumps(about, sort_keys=True, indent=1).encode())
    return prefix


_SHARDS = "SELECT split, name, sha256, bytes, samples FROM shards WHERE dataset = {}"
