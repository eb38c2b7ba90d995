"""`kontext explain`: what is known of one pair."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.shared import draw, named, opened
from flows.cli.shared.options import At, Dataset, Json, PairId, Panel, Store
from flows.cli.shared.show import cell, print_table
from kontext.errors import ArtifactError
from tasks.markdown import json_safe

PLACE = (Panel.DATA, 6)


def explain(
    pair_id: PairId,
    at: At = "",
    dataset: Dataset = "",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write a page with its pictures.")
    ] = None,
    as_json: Json = False,
    store: Store = "",
) -> None:
    """Show all about one pair: pictures, source, evidence, caption, scores, decision, shard.

    A terminal draws the pictures; -o writes them as a page. Safety's rejects are not drawn.
    """
    from kontext.store.catalog import explain as stories

    where = dataset or named.dataset(at, store)
    story = stories.explain(opened.catalog(store), pair_id, at or None, where)
    if output is not None or not as_json:
        _pictures(story["evidence"][0], at, store, output, quiet=as_json)
    if as_json:
        typer.echo(json.dumps(json_safe(story), indent=1, ensure_ascii=False))
        return
    for number, (title, rows) in enumerate(story.items()):
        typer.echo(f"\n{title}" if number else title)
        _print_rows(rows)


def _pictures(
    pair: dict[str, Any], at: str, store: str, output: Path | None, *, quiet: bool
) -> None:
    """Draw the pair's pictures, or say why they are not drawn; write them as a page too."""
    import pyarrow as pa

    from kontext.data.gallery.cards import cards_of
    from kontext.data.gallery.page import page

    answer = pa.table({"pair_id": [pair["pair_id"]]})
    try:
        cards = cards_of(
            answer, opened.catalog(store), opened.artifacts(store), pair["dataset"], at or None
        )
    except ArtifactError as error:  # the catalog outlives files that were left elsewhere
        if output is not None:
            raise
        typer.echo(f"no pictures: {error}\n")
        return
    if output is not None:
        title = f"Pair {pair['pair_id'][:12]} of {pair['dataset']}"
        output.write_text(page(cards, title, f"pair_id = {pair['pair_id']}"), encoding="utf-8")
    if quiet:
        return
    card = cards[0]
    if card.hidden:
        typer.echo(f"pictures {card.hidden}\n")
        return
    one = len(card.contexts) == 1
    names = ["context" if one else f"context-{n}" for n in range(1, len(card.contexts) + 1)]
    draw.pictures(dict(zip([*names, "target"], [*card.contexts, card.target], strict=True)))


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
