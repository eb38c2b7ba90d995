"""Deterministic Parquet: the same rows give the same bytes, however they were chunked in memory."""

import io

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


def read_parquet(data: bytes) -> pa.Table:
    """The table in some Parquet bytes."""
    threads = len(data) > 1 << 20  # below, handing over to the pool costs more than it saves
    return pq.read_table(pa.BufferReader(data), partitioning=None, use_threads=threads)
