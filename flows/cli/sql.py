"""`kontext sql`: queries of the catalog."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flows.cli.shared import named, opened
from flows.cli.shared.options import At, Dataset, Json, Panel, Store
from flows.cli.shared.show import cell, print_table, table_text
from kontext.errors import CatalogError
from tasks.markdown import json_safe

if TYPE_CHECKING:
    import pyarrow as pa

PLACE = (Panel.DATA, 2)
_NUMBERS = ("int", "uint", "float", "double", "dec")  # starts of the names of Arrow's types
_SHELL = (
    "Open duckdb's own prompt, with the lake attached read-only. It is not restricted as a query "
    "is: beside the lake it can read and write whatever you can."
)
Format = Literal["table", "csv", "json", "parquet"]


def sql(
    query: Annotated[str, typer.Argument(help="One SELECT; see `kontext tables`.")] = "",
    at: At = "",
    dataset: Dataset = "",
    output_format: Annotated[
        Format, typer.Option("--format", "-f", help="How the answer is printed.")
    ] = "table",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to a file.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds before the query is stopped.")] = 60.0,
    shell: Annotated[bool, typer.Option("--shell", help=_SHELL)] = False,
    as_json: Json = False,
    store: Store = "",
) -> None:
    """Query the catalog: pairs, scores, decisions, shards, runs, artifacts, metrics.

    A query can only read the lake's tables and views. They hold the rows of one dataset, unless the
    query itself names their column `dataset`.
    """
    if shell == bool(query):
        raise typer.BadParameter("give a query, or --shell")
    if shell:
        _open_shell(at, store, dataset)
        return
    narrow = "" if dataset == "all" else dataset or partial(named.dataset, at, store)
    answer = opened.catalog(store).query(query, at=at or None, timeout=timeout, dataset=narrow)
    chosen: Format = "json" if as_json else output_format
    if chosen == "parquet":
        _write_parquet(answer, output)
    elif output is None and chosen == "table":
        print_table(*_table(answer))
    elif output is None:
        typer.echo(_text(answer, chosen))
    else:
        output.write_text(_text(answer, chosen) + "\n")


def _open_shell(at: str, store: str, dataset: str) -> None:
    """Hand over to the duckdb command line with the catalog attached."""
    installed = shutil.which("duckdb", path=str(Path(sys.executable).parent))
    program = installed or shutil.which("duckdb")
    if program is None:
        raise CatalogError("no duckdb command here: pip install 'kontext[shell]'")
    text = opened.prelude(at, store, dataset or partial(named.dataset, at, store))
    with tempfile.TemporaryDirectory(prefix="kontext-shell-") as folder:
        file = Path(folder, "prelude.sql")
        file.write_text(text)
        code = os.spawnv(os.P_WAIT, program, [program, "-init", str(file)])
    raise typer.Exit(code)


def _write_parquet(answer: pa.Table, output: Path | None) -> None:
    import pyarrow.parquet as pq

    if output is not None:
        pq.write_table(answer, output, compression="zstd")
    elif sys.stdout.isatty():
        raise typer.BadParameter("Parquet is binary: give --output FILE or redirect the output")
    else:
        pq.write_table(answer, sys.stdout.buffer, compression="zstd")


def _text(answer: pa.Table, chosen: Format) -> str:
    from kontext.store.catalog.rows import plain_rows

    if chosen == "json":
        return json.dumps(json_safe(plain_rows(answer)), indent=1, ensure_ascii=False)
    rows, names, right = _table(answer)
    if chosen == "table":
        return table_text(rows, names, right)
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([names, *rows])
    return out.getvalue().rstrip("\n")


def _table(answer: pa.Table) -> tuple[list[list[str]], list[str], list[int]]:
    """Rows, names of the columns, and numbers of those that hold numbers."""
    from kontext.store.catalog.rows import plain_rows

    rows = [[cell(value) for value in row.values()] for row in plain_rows(answer)]
    right = [i for i, field in enumerate(answer.schema) if str(field.type).startswith(_NUMBERS)]
    return rows, answer.column_names, right
