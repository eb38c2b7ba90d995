"""Rows of the catalog: made from manifests, and inserted."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

import duckdb
import pyarrow as pa

from kontext.store.lake.ddl import quote
from schemas.catalog import ARTIFACTS, DATASET_TABLES, METRICS, RUNS
from schemas.manifest import Manifest
from schemas.risks import risks

Connection = duckdb.DuckDBPyConnection
TableSource: TypeAlias = pa.Table | Sequence[Path]  # rows, or Parquet files that hold them


def parents(inputs: Mapping[str, str]) -> list[dict[str, str]]:
    """Input artifacts as the catalog lists them."""
    return [{"stage": stage, "digest": digest} for stage, digest in sorted(inputs.items())]


def manifest_rows(manifest: Manifest) -> dict[str, pa.Table]:
    """Rows of runs, artifacts and metrics for one finished stage."""
    key = {"stage": manifest.stage, "digest": manifest.digest}
    texts = ("config", "packages", "kernels")
    run = {
        **manifest.model_dump(),  # the schema takes what the table has
        **{name: json.dumps(getattr(manifest, name), sort_keys=True) for name in texts},
        "inputs": parents(manifest.inputs),
        "created_at": datetime.fromisoformat(manifest.created_at),
    }
    files = [{**key, "file": f.name, "sha256": f.sha256, "bytes": f.size} for f in manifest.files]
    metrics = [
        {
            **key,
            "name": name,
            "value": None if value is None or isinstance(value, str) else float(value),
            "text": value if isinstance(value, str) else "",
        }
        for name, value in sorted(manifest.metrics.items())
    ]
    return {
        "runs": pa.Table.from_pylist([run], schema=RUNS),
        "artifacts": pa.Table.from_pylist(files, schema=ARTIFACTS),
        "metrics": pa.Table.from_pylist(metrics, schema=METRICS),
    }


def scalar(connection: Connection, sql: str, parameters: Sequence[Any] = ()) -> Any:
    """The first value of a query that gives at least one row."""
    row = connection.execute(sql, parameters).fetchone()
    assert row is not None
    return row[0]


def insert(connection: Connection, name: str, table: pa.Table) -> None:
    """Append rows to a table of the attached lake, matched by column names."""
    connection.register("incoming", table)
    connection.execute(f'INSERT INTO "{name}" BY NAME SELECT * FROM incoming')
    connection.unregister("incoming")


def insert_dataset(connection: Connection, name: str, dataset: str, rows: TableSource) -> None:
    """Append a dataset's rows to one of DATASET_TABLES, sorted by the table's key."""
    if isinstance(rows, pa.Table):
        connection.register("incoming", rows)
        source = "incoming"
    elif rows:
        source = f"read_parquet([{', '.join(quote(str(path)) for path in rows)}])"
    else:
        return
    # an artifact lacks a risk that its recipe did not screen for: its column is null
    present = connection.execute(f"SELECT * FROM {source} LIMIT 0").fetch_arrow_table().column_names
    later = {risk.column for risk in risks().values()} - set(present)
    names = [column for column in DATASET_TABLES[name].names[1:] if column not in later]
    columns = ", ".join(f'"{column}"' for column in names)
    # sorted by its key, a table answers for one pair or image from one row group
    key = next((column for column in ("pair_id", "pixel_id") if column in names), None)
    order = f" ORDER BY {key}" if key else ""
    connection.execute(
        f'INSERT INTO "{name}" (dataset, {columns}) SELECT ?, {columns} FROM {source}{order}',
        [dataset],
    )
    if isinstance(rows, pa.Table):
        connection.unregister("incoming")
