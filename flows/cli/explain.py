"""`kontext explain`: what is known of one pair."""

import json
from typing import Any

import typer

from flows.cli.shared import named, opened
from flows.cli.shared.options import At, Dataset, Json, PairId, Panel, Store
from flows.cli.shared.show import cell, print_table
from tasks.markdown import json_safe

PLACE = (Panel.DATA, 3)


def explain(
    pair_id: PairId,
    at: At = "",
    dataset: Dataset = "",
    as_json: Json = False,
    store: Store = "",
) -> None:
    """Show all about one pair: source, evidence, caption, scores, decision, split, shard."""
    from kontext.store.catalog import explain as stories

    where = dataset or named.dataset(at, store)
    story = stories.explain(opened.catalog(store), pair_id, at or None, where)
    if as_json:
        typer.echo(json.dumps(json_safe(story), indent=1, ensure_ascii=False))
        return
    for number, (title, rows) in enumerate(story.items()):
        typer.echo(f"\n{title}" if number else title)
        _print_rows(rows)


def _print_rows(rows: list[dict[str, Any]]) -> None:
    """Rows of many columns one below the other, others as a table; empty cells are left out."""
    if not rows:
        typer.echo("  none")
        return
    filled = [name for name in rows[0] if any(cell(row[name]) for row in rows)]
    if len(filled) <= 4:
        print_table([[cell(row[name]) for name in filled] for row in rows], filled, indent=2)
        return
    for number, row in enumerate(rows):
        if number:
            typer.echo("")
        print_table([(name, cell(row[name])) for name in filled if cell(row[name])], indent=2)
