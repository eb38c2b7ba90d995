"""`kontext sql`, `tables` and `explain`: questions to the catalog."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kontext.errors import CatalogError

if TYPE_CHECKING:
    import pyarrow as pa

    from kontext.store.catalog import Catalog

Store = Annotated[str, typer.Option("--store", help="file:///folder or s3://bucket/prefix.")]
At = Annotated[
    str, typer.Option("--at", help="As of a dataset version (demo@v1) or a snapshot number.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Format(StrEnum):
    """How a query's answer is printed."""

    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(sql)
    app.command()(tables)
    app.command()(explain)


def open_catalog(store: str) -> Catalog:
    """The catalog of the environment."""
    from kontext.store.catalog import Catalog
    from kontext.store.objects import open_store
    from tasks.workspace import places

    at = places(store)
    return Catalog(at.catalog, open_store(at.store).url)


def sql(
    query: Annotated[str, typer.Argument(help="Read-only SQL; see `kontext tables`.")] = "",
    at: At = "",
    output_format: Annotated[Format, typer.Option("--format", "-f")] = Format.table,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to a file.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds before the query is stopped.")] = 60.0,
    shell: Annotated[bool, typer.Option("--shell", help="Open duckdb's own prompt.")] = False,
    as_json: Json = False,
    store: Store = "",
) -> None:
    """Ask the catalog anything: pairs, scores, decisions, shards, runs, artifacts, metrics."""
    if shell == bool(query):
        raise typer.BadParameter("give a query, or --shell")
    if shell:
        _open_shell(at, store)
        return
    answer = open_catalog(store).query(query, at=at or None, timeout=timeout)
    chosen = Format.json if as_json else output_format
    if chosen is Format.parquet:
        _write_parquet(answer, output)
        return
    text = _RENDER[chosen](answer)
    if output is None:
        typer.echo(text)
    else:
        output.write_text(text + "\n")


def _open_shell(at: str, store: str) -> None:
    """Hand over to the duckdb command line with the catalog attached."""
    import os
    import shutil
    import tempfile

    from flows.cli_catalog import prelude_text

    beside = shutil.which("duckdb", path=str(Path(sys.executable).parent))
    program = beside or shutil.which("duckdb")
    if program is None:
        raise CatalogError("no duckdb command here: pip install 'kontext[shell]'")
    text = prelude_text(at, store)
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


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def _as_json(answer: pa.Table) -> str:
    return json.dumps([_plain(row) for row in answer.to_pylist()], indent=1, ensure_ascii=False)


def _as_csv(answer: pa.Table) -> str:
    import csv
    import io

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(answer.column_names)
    for row in answer.to_pylist():
        writer.writerow([_cell(value) for value in row.values()])
    return out.getvalue().rstrip("\n")


def _cell(value: Any) -> str:
    plain = _plain(value)
    if plain is None:
        return ""
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def _as_table(answer: pa.Table) -> str:
    rows = [[_cell(value) for value in row.values()] for row in answer.to_pylist()]
    widths = [
        max([len(name), *(len(row[i]) for row in rows)])
        for i, name in enumerate(answer.column_names)
    ]
    right = [str(field.type).startswith(("int", "uint", "float", "double", "dec"))
             for field in answer.schema]  # fmt: skip
    lines = [_line(answer.column_names, widths, right), "  ".join("─" * w for w in widths)]
    lines += [_line(row, widths, right) for row in rows]
    return "\n".join(lines)


def _line(cells: list[str], widths: list[int], right: list[bool]) -> str:
    padded = [
        cell.rjust(width) if flush else cell.ljust(width)
        for cell, width, flush in zip(cells, widths, right, strict=True)
    ]
    return "  ".join(padded).rstrip()


_RENDER = {Format.json: _as_json, Format.csv: _as_csv, Format.table: _as_table}


def tables(
    name: Annotated[str, typer.Argument(help="One table or view, with its columns.")] = "",
    at: At = "",
    as_json: Json = False,
    store: Store = "",
) -> None:
    """List tables and views with their comments; with a name, its columns."""
    found = open_catalog(store).tables(at=at or None)
    if name:
        found = [info for info in found if info.name == name]
        if not found:
            raise CatalogError(f"no table or view '{name}'; `kontext tables` lists them")
    if as_json:
        typer.echo(json.dumps([vars(info) for info in found], indent=1))
        return
    for info in found:
        typer.echo(f"{info.name:20} {info.kind:5} {info.rows:>9,}  {info.comment}")
        for column, kind, comment in info.columns if name else ():
            typer.echo(f"    {column:24} {kind:18} {comment}".rstrip())


# --- explain -----------------------------------------------------------------------------------

_PARTS = {
    "source": """
        SELECT CASE WHEN i.pixel_id = p.target_id THEN 'target' ELSE 'context' END AS role,
            i.pixel_id, i.source, i.source_ref, i.concept, i.attributes, i.group_key,
            i.width_px, i.height_px, i.license_spdx, i.author
        FROM pairs p JOIN images i ON i.dataset = p.dataset
            AND (i.pixel_id = p.target_id OR list_contains(p.context_ids, i.pixel_id))
        WHERE p.pair_id = '{id}' AND p.dataset = '{dataset}' ORDER BY role, i.pixel_id""",
    "evidence": """
        SELECT dataset, pair_id, relation_class, relation, miner, miner_version, params, group_key
        FROM pairs WHERE pair_id = '{id}' AND dataset = '{dataset}'""",
    "caption": """
        SELECT instruction, instruction_short, instruction_inverse, target_caption,
            context_caption, template, status, captioner
        FROM captions WHERE pair_id = '{id}' AND dataset = '{dataset}'""",
    "image scores": """
        SELECT s.pixel_id, s.classifier, s.label, round(s.score, 4) AS score
        FROM image_scores s JOIN pairs p ON p.dataset = s.dataset
            AND (s.pixel_id = p.target_id OR list_contains(p.context_ids, s.pixel_id))
        WHERE p.pair_id = '{id}' AND p.dataset = '{dataset}'
        ORDER BY s.score DESC, s.pixel_id, s.label LIMIT 6""",
    "pair scores": """
        SELECT * EXCLUDE (dataset, pair_id) FROM pair_scores
        WHERE pair_id = '{id}' AND dataset = '{dataset}'""",
    "decision": """
        SELECT accept, reject_reasons FROM acceptance
        WHERE pair_id = '{id}' AND dataset = '{dataset}'""",
    "split": """
        SELECT split, component_id FROM splits WHERE pair_id = '{id}' AND dataset = '{dataset}'""",
    "shard": """
        SELECT s.name, s.sha256, m.offset_bytes, m.length_bytes
        FROM shard_members m JOIN shards s USING (dataset, shard_id)
        WHERE m.pair_id = '{id}' AND m.dataset = '{dataset}'""",
}


def explain(
    pair_id: Annotated[str, typer.Argument(help="Pair id or a unique start of it.")],
    at: At = "",
    as_json: Json = False,
    store: Store = "",
) -> None:
    """Tell a pair's whole story: source, evidence, caption, scores, decision, split, shard."""
    catalog = open_catalog(store)
    version = at or None
    if not pair_id or set(pair_id) - set("0123456789abcdef"):
        raise typer.BadParameter("a pair id is lower-case hexadecimal")
    matches = catalog.query(
        f"SELECT pair_id, min(dataset) AS dataset FROM pairs "
        f"WHERE starts_with(pair_id, '{pair_id}') "
        "GROUP BY pair_id ORDER BY pair_id LIMIT 3",
        at=version,
    ).to_pylist()
    if len(matches) != 1:
        what = "no pair" if not matches else "more than one pair"
        raise CatalogError(f"{what} starts with '{pair_id}'")
    found = {"id": matches[0]["pair_id"], "dataset": matches[0]["dataset"].replace("'", "''")}
    story = {
        title: [_plain(row) for row in catalog.query(text.format(**found), at=version).to_pylist()]
        for title, text in _PARTS.items()
    }
    typer.echo(json.dumps(story, indent=1, ensure_ascii=False) if as_json else _tell(story))


def _tell(story: dict[str, list[dict[str, Any]]]) -> str:
    lines: list[str] = []
    for title, rows in story.items():
        lines.append(f"\n{title}")
        if not rows:
            lines.append("  none")
        for row in rows:
            shown = [(key, _cell(value)) for key, value in row.items() if _cell(value) != ""]
            if len(shown) > 4:
                lines += [f"  {key:20} {value}" for key, value in shown] + [""]
            else:
                lines.append("  " + "  ".join(f"{key}={value}" for key, value in shown))
    return "\n".join(lines).strip("\n")
