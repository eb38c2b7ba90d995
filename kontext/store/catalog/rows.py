"""Rows of the catalog: made from manifests, and inserted."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kontext.store.artifacts.artifact_store import Artifact, blob_key
from kontext.store.lake.ddl import quote
from schemas.catalog import ARTIFACTS, DATASET_TABLES, EVALUATED_ITEMS, METRICS, RUNS
from schemas.manifest import Manifest
from schemas.risks import risks

Connection = duckdb.DuckDBPyConnection
TableSource: TypeAlias = pa.Table | Sequence[Path]  # rows, or Parquet files that hold them


def parents(inputs: Mapping[str, str]) -> list[dict[str, str]]:
    """Input artifacts as the catalog lists them."""
    return [{"stage": stage, "digest": digest} for stage, digest in sorted(inputs.items())]


def manifest_rows(manifest: Manifest, files: Artifact | None = None) -> dict[str, pa.Table]:
    """Rows of the tables about runs for one finished stage.

    With its `files` also those of evaluated_items, where the stage evaluated any.
    """
    key = {"stage": manifest.stage, "digest": manifest.digest}
    texts = ("config", "packages", "kernels")
    run = {
        **manifest.model_dump(),  # the schema takes what the table has
        **{name: json.dumps(getattr(manifest, name), sort_keys=True) for name in texts},
        "inputs": parents(manifest.inputs),
        "created_at": datetime.fromisoformat(manifest.created_at),
    }
    listed = [{**key, "file": f.name, "sha256": f.sha256, "bytes": f.size} for f in manifest.files]
    metrics = [
        {
            **key,
            "name": name,
            "value": None if value is None or isinstance(value, str) else float(value),
            "text": value if isinstance(value, str) else "",
        }
        for name, value in sorted(manifest.metrics.items())
    ]
    tables = {
        "runs": pa.Table.from_pylist([run], schema=RUNS),
        "artifacts": pa.Table.from_pylist(listed, schema=ARTIFACTS),
        "metrics": pa.Table.from_pylist(metrics, schema=METRICS),
        "evaluated_items": _evaluated(manifest, files),
    }
    return {name: table for name, table in tables.items() if table.num_rows}


def _evaluated(manifest: Manifest, files: Artifact | None) -> pa.Table:
    """The items of an evaluation that a trained model edited."""
    if files is None or manifest.stage != "evaluate" or not files.names(_ITEMS):
        return EVALUATED_ITEMS.empty_table()
    sha256 = {file.name: file.sha256 for file in manifest.files}.get(_PICTURES)
    evaluation = {
        "digest": manifest.digest,
        "recipe": manifest.recipe,
        "run": manifest.run,
        "evaluated_at": datetime.fromisoformat(manifest.created_at),
        "object": sha256 and blob_key(sha256),
    }
    items = []
    for row in files.table(_ITEMS).to_pylist():
        if stage := _MODELS.get(row["editor"]):
            if stage not in manifest.inputs:  # no student was made: the teacher is both
                stage = "finetune"
            if stage == "finetune" and "exclude" in manifest.inputs:
                stage = "exclude"  # what that made of it was evaluated
            model = {"model": row["editor"], "model_stage": stage}
            model["model_digest"] = manifest.inputs.get(stage, "")
            items.append({**evaluation, **row, **model, "component_id": row["cluster"]})
    return pa.Table.from_pylist(items, schema=EVALUATED_ITEMS)


_ITEMS, _PICTURES = "items.parquet", "edits.tar"  # of the stage evaluate
_MODELS = {"teacher": "finetune", "student": "distill"}  # editor -> stage


def present(name: str) -> str:
    """A query that counts a finished stage's rows of a table; `$stage` and `$digest` name it."""
    stage = "$stage = 'evaluate'" if name == "evaluated_items" else "stage = $stage"
    return f'SELECT count(*) FROM "{name}" WHERE {stage} AND digest = $digest'


def plain_rows(table: pa.Table) -> list[dict[str, Any]]:
    """The rows as Python values; a 32-bit float as the shortest number that means it.

    0.685 for what becomes 0.6850000023841858 as a 64-bit float.
    """
    kinds = [(field.name, field.type) for field in table.schema if _has_float32(field.type)]
    found: list[dict[str, Any]] = table.to_pylist()
    for row in found:
        for name, kind in kinds:
            row[name] = _shortest(row[name], kind)
    return found


def _has_float32(kind: pa.DataType) -> bool:
    inner = (kind.field(i).type for i in range(kind.num_fields))
    return kind == pa.float32() or any(map(_has_float32, inner))


def _shortest(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if kind == pa.float32():
        return float(str(np.float32(value)))
    if pa.types.is_struct(kind):
        return {field.name: _shortest(value[field.name], field.type) for field in kind}
    if pa.types.is_map(kind):
        return [(_shortest(k, kind.key_type), _shortest(v, kind.item_type)) for k, v in value]
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        return [_shortest(item, kind.value_type) for item in value]
    return value


def scalar(
    connection: Connection, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()
) -> Any:
    """The first value of a query that gives at least one row."""
    row = connection.execute(sql, parameters).fetchone()
    assert row is not None
    return row[0]


def insert(connection: Connection, name: str, table: pa.Table) -> None:
    """Append rows to a table of the attached lake, matched by column names."""
    connection.register("incoming", table)
    connection.execute(f'INSERT INTO "{name}" BY NAME SELECT * FROM incoming')
    connection.unregister("incoming")


def insert_new(connection: Connection, name: str, table: pa.Table, key: str) -> int:
    """As `insert`, of rows with a `key` that the table does not have; how many those were."""
    known = connection.execute(f'SELECT "{key}" FROM "{name}"').fetch_arrow_table().column(0)
    fresh = table.filter(pc.invert(pc.is_in(table[key], value_set=known.combine_chunks())))
    if fresh.num_rows:
        insert(connection, name, fresh)
    return int(fresh.num_rows)


_LATER = (  # columns that artifacts of before do not have
    *("files", "crops", "forms"),
    *("largest_blob", "misalignment", "misalignment_status", "sharpness"),
)


def insert_dataset(connection: Connection, name: str, dataset: str, rows: TableSource) -> None:
    """Append a dataset's rows to one of DATASET_TABLES, sorted by the table's key."""
    if isinstance(rows, pa.Table):
        connection.register("incoming", rows)
        source = "incoming"
    elif rows:
        source = f"read_parquet([{', '.join(quote(str(path)) for path in rows)}])"
    else:
        return
    # null: a risk that the artifact's recipe did not screen for, or what it is too old to have
    present = connection.execute(f"SELECT * FROM {source} LIMIT 0").fetch_arrow_table().column_names
    later = {*_LATER, *(risk.column for risk in risks().values())} - set(present)
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
