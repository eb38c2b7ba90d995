"""Parquet: the same rows give the same bytes, however they were chunked; and one way to read it."""

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

CHANGES_RESULTS = True

_ROWS = 65_536  # rows per group
_ROWS_BLOBS = 1_024  # where a column holds images


def parquet_bytes(table: pa.Table) -> bytes:
    """The table as zstd Parquet."""
    table = table.replace_schema_metadata(_metadata(table.schema)).combine_chunks()
    table = table.cast(_as_made(table.schema))
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


def _as_made(schema: pa.Schema) -> pa.Schema:
    """The schema with lists' items named as pyarrow makes them: what was read calls them others."""
    fields = []
    for field in schema:
        if pa.types.is_list(field.type):
            items = field.type.value_field
            field = field.with_type(pa.list_(pa.field("item", items.type, items.nullable)))
        fields.append(field)
    return pa.schema(fields, schema.metadata)


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

    Raises pyarrow's ArrowException or OSError where that is damaged.

    Not by `pq.read_table`: its scanner lets go of the source after it has returned, and where the
    process ends meanwhile, it dies with "terminate called without an active exception"
    (apache/arrow#34314, #33975). One command in some hundreds did, on a busy machine.
    """
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    threads = size > 1 << 20  # below, handing over to the pool costs more than it saves
    opened = pa.BufferReader(source) if isinstance(source, bytes) else source
    try:
        with pq.ParquetFile(opened) as file:
            return file.read(columns=columns and list(columns), use_threads=threads)
    except UnicodeDecodeError as error:  # pyarrow's own, of a damaged name of a column
        raise pa.ArrowInvalid(f"the name of a column is no text: {error}") from error


class ParquetRows:
    """Rows of a file by their numbers. One group of rows is held, so that going through is fast."""

    def __init__(self, path: Path) -> None:
        self._path = path
        metadata = pq.read_metadata(path)
        sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        self._ends = np.cumsum(sizes, dtype=np.int64)
        self._held: tuple[int, pa.Table] | None = None

    def take(self, rows: NDArray[np.integer[Any]]) -> pa.Table:
        """The rows of these numbers [N], in their order."""
        of = np.searchsorted(self._ends, rows, side="right")
        groups, parts, taken = np.unique(of), [], []
        for group in groups.tolist():
            mine = np.flatnonzero(of == group)
            first = int(self._ends[group - 1]) if group else 0
            parts.append(self._group(group).take(pa.array(rows[mine] - first)))
            taken.append(mine)
        if not parts:
            return self._group(0).slice(0, 0)
        found = pa.concat_tables(parts)
        order = np.argsort(np.concatenate(taken))
        return found if len(groups) == 1 else found.take(pa.array(order))

    def _group(self, number: int) -> pa.Table:
        if self._held is None or self._held[0] != number:
            with pq.ParquetFile(self._path) as file:
                self._held = number, file.read_row_group(number)
        return self._held[1]
