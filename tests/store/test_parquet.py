"""Parquet: equal rows are equal bytes, and what is written is read, by one function."""

import ast
import tempfile
from itertools import accumulate, pairwise
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kontext.store.parquet import parquet_bytes, read_parquet, write_parquet

ROOT = Path(__file__).resolve().parents[2]
ROWS = st.lists(st.tuples(st.integers(-(2**40), 2**40), st.text(max_size=5), st.binary()))


def _table(rows: list[tuple[int, str, bytes]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [[], [], []]
    types = {"number": pa.int64(), "text": pa.string(), "blob": pa.binary()}
    fields = [
        pa.field(name, kind, metadata={"comment": f"a {name}"}) for name, kind in types.items()
    ]
    schema = pa.schema(fields, metadata={"comment": "rows"})
    return pa.table([pa.array(c, k) for c, k in zip(columns, types.values(), strict=True)], schema)


@given(ROWS)
def test_what_is_written_is_read_from_bytes_and_from_files(
    rows: list[tuple[int, str, bytes]],
) -> None:
    table = _table(rows)
    data = parquet_bytes(table)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.parquet"
        path.write_bytes(data)
        for read in (read_parquet(data), read_parquet(path)):
            assert read.equals(table)
            assert read.schema.metadata[b"comment"] == b"rows"
            assert parquet_bytes(read) == data
        assert read_parquet(path, ["text"]).equals(table.select(["text"]))


def test_a_large_file_is_read_by_threads_to_the_same_rows(tmp_path: Path) -> None:
    table = _table(
        [(i, str(i), bytes([i % 251]) * 40 + str(i * i).encode()) for i in range(90_000)]
    )
    data = parquet_bytes(table)
    assert len(data) > 1 << 20 and read_parquet(data).equals(table)


def test_nothing_reads_through_the_scanner() -> None:
    """`read_table` works on after it has returned, and can abort a process that ends."""
    for package in ("kontext", "flows", "tasks", "benchmarks"):
        for path in (ROOT / package).rglob("*.py"):
            calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
            names = {n.func.attr for n in calls if isinstance(n.func, ast.Attribute)}
            assert not names & {"read_table", "ParquetDataset"}, path


@given(st.lists(st.integers(0, 90_000), max_size=4))
@settings(max_examples=20)
def test_many_tables_give_the_bytes_of_one(sizes: list[int]) -> None:
    table = _table([(i, str(i), b"") for i in range(sum(sizes))]).drop_columns(["blob"])
    ends = list(accumulate(sizes, initial=0))
    parts = [table.slice(low, high - low) for low, high in pairwise(ends)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.parquet"
        write_parquet(path, table.schema, parts)
        assert path.read_bytes() == parquet_bytes(table)


def test_lists_that_were_read_are_written_as_they_were() -> None:
    pairs = pa.list_(pa.struct([("hash", pa.binary()), ("quality", pa.uint8())]))
    table = pa.table(
        {
            "scores": pa.array([[1.0], [2.0, 3.0], [], None], pa.list_(pa.float32())),
            "crops": pa.array([[{"hash": b"a", "quality": 1}], [], [], None], pairs),
        }
    )
    written = parquet_bytes(table)
    assert parquet_bytes(read_parquet(written)) == written


def test_a_damaged_name_of_a_column_is_an_error_of_arrows() -> None:
    """pyarrow lets a UnicodeDecodeError through, which no reader expects."""
    data = parquet_bytes(_table([(1, "a", b"b")]))
    damaged = data.replace(b"number", b"num\x9aer")
    assert damaged != data
    with pytest.raises(pa.ArrowInvalid, match="no text"):
        read_parquet(damaged)
