"""How commands print: JSON, or tables that fit the terminal and stay whole in a pipe."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import typer

from tasks.markdown import json_safe

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    typer.echo(json.dumps(value, indent=1))


def print_result(value: Any, text: str, as_json: bool) -> None:
    """Print what a command made: the value with `--json`, else the words for people."""
    if as_json:
        print_json(value)
    else:
        typer.echo(text)


def cell(value: Any) -> str:
    """A value as text: empty for None, JSON for what is no text."""
    plain = json_safe(value)
    if plain is None:
        return ""
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def say(text: str) -> None:
    """Print a line about the progress to stderr, where it spoils no output."""
    typer.echo(text, err=True)


def dim(text: str) -> None:
    """Print a remark to stderr: what was taken where nothing was named."""
    typer.echo(typer.style(text, dim=True), err=True)


def print_table(
    rows: Sequence[Sequence[object]],
    headers: Sequence[str] = (),
    right: Collection[int] = (),
    indent: int = 0,
) -> None:
    """Print rows in columns: folded to the terminal's width, each on one line in a pipe.

    Args:
        headers: of the columns; none prints no heading.
        right: numbers of the columns that are aligned at the right.
        indent: spaces before the table.
    """
    if not rows:
        return
    if sys.stdout.isatty():
        from rich.padding import Padding

        _console(None).print(Padding(_table(rows, headers, right), (0, 0, 0, indent)))
    else:
        for line in table_text(rows, headers, right).splitlines():
            typer.echo(" " * indent + line)


def table_text(
    rows: Sequence[Sequence[object]], headers: Sequence[str], right: Collection[int] = ()
) -> str:
    """The table as text, one line for each row however long it is."""
    out = io.StringIO()
    console, made = _console(out), _table(rows, headers, right)
    console.width = console.measure(made, options=console.options.update(max_width=1 << 20)).maximum
    console.print(made)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _table(
    rows: Sequence[Sequence[object]], headers: Sequence[str], right: Collection[int]
) -> Table:
    from rich import box
    from rich.table import Table

    made = Table(
        box=box.SIMPLE_HEAD if headers else None,
        show_header=bool(headers),
        show_edge=False,
        pad_edge=False,
        padding=(0, 1 if headers else 2, 0, 0),
    )
    for number, name in enumerate(headers or [""] * len(rows[0])):
        made.add_column(name, justify="right" if number in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*map(str, row))
    return made


def _console(out: io.StringIO | None) -> Console:
    """A console that prints data as it is: no markup, no colours, no emoji codes."""
    from rich.console import Console

    return Console(file=out, markup=False, emoji=False, highlight=False)
