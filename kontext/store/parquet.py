"""Parquet: the same rows give the same bytes, however they were chunked; and one way to read it."""

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

CHANGES_RESULTS = True

_ROWS = 65_536  # rows per group
_ROWS_BLOBS = 1_024  # where a column holds images


def parquet_bytes(table: pa.Table) -> bytes:
    """The table as zstd Parquet."""
    table = table.replace_schema_metadata(_metadata(table.schema)).combine_chunks()
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=_group_rows(table.schema), **_format(table.schema))
    return sink.getvalue()


def write_parquet(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Write the rows of all tables to a file; at most one group of rows is held.

    The bytes are those that `parquet_bytes` gives for all of them in one table.
    """
    schema = schema.with_metadata(_metadata(schema))
    with pq.ParquetWriter(path, schema, **_format(schema)) as writer:
        for group in _regrouped(tables, schema, _group_rows(schema)):
            writer.write_table(group)


def _regrouped(tables: Iterable[pa.Table], schema: pa.Schema, rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of just so many, but for the last; one without rows if none has."""
    held, some = schema.empty_table(), False
    for table in tables:
        held = pa.concat_tables([held, table.replace_schema_metadata(schema.metadata)])
        while held.num_rows >= rows:
            yield held.slice(0, rows).combine_chunks()
            held, some = held.slice(rows), True
    if held.num_rows or not some:
        yield held.combine_chunks()


def _metadata(schema: pa.Schema) -> dict[bytes, bytes] | None:
    return {k: v for k, v in (schema.metadata or {}).items() if k != b"pandas"} or None


def _blobs(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if pa.types.is_binary(field.type)]


def _group_rows(schema: pa.Schema) -> int:
    return _ROWS_BLOBS if _blobs(schema) else _ROWS


def _format(schema: pa.Schema) -> dict[str, Any]:
    blobs = _blobs(schema)
    return {
        "compression": "zstd",
        "compression_level": 3,
        "use_dictionary": [field.name for field in schema if field.name not in blobs],
        "data_page_version": "1.0",
        "version": "2.6",
    }


def read_parquet(source: bytes | Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The table in a file or in some bytes, or some of its columns.

    Not by `pq.read_table`: its scanner lets go of the source after it has returned, and where the
    process ends meanwhile, it dies with "terminate called without an active exception"
    (apache/arrow#34314, #33975). One command in some hundreds did, on a busy machine.
    """
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    threads = size > 1 << 20  # below, handing over to the pool costs more than it saves
    opened = pa.BufferReader(source) if isinstance(source, bytes) else source
    with pq.ParquetFile(opened) as file:
        return file.read(columns=columns and list(columns), use_threads=threads)
