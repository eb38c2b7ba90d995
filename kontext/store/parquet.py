"""Parquet: the same rows give the same bytes, however they were chunked; and one way to read it."""

import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

CHANGES_RESULTS = True

_ROWS = 65_536  # rows per group
_ROWS_BLOBS = 1_024  # where a column holds images


def parquet_bytes(table: pa.Table) -> bytes:
    """The table as zstd Parquet."""
    metadata = {k: v for k, v in (table.schema.metadata or {}).items() if k != b"pandas"}
    table = table.replace_schema_metadata(metadata or None).combine_chunks()
    blobs = [f.name for f in table.schema if pa.types.is_binary(f.type)]
    sink = io.BytesIO()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        compression_level=3,
        row_group_size=_ROWS_BLOBS if blobs else _ROWS,
        use_dictionary=[f.name for f in table.schema if f.name not in blobs],
        data_page_version="1.0",
        version="2.6",
    )
    return sink.getvalue()


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
