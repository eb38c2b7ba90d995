"""`kontext gallery`: the pairs of a query as a page of pictures."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.shared import named, opened
from flows.cli.shared.options import At, Dataset, Json, Panel, Store
from flows.cli.shared.show import print_result

PLACE = (Panel.DATA, 5)


def gallery(
    query: Annotated[
        str, typer.Argument(help="One SELECT with a column pair_id; by default training pairs.")
    ] = "select pair_id from train_pairs using sample reservoir(60 rows) repeatable (0)",
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML file to write.")] = Path(
        "gallery.html"
    ),
    most: Annotated[int, typer.Option(min=1, help="Pairs on the page, at most.")] = 200,
    at: At = "",
    dataset: Dataset = "",
    as_json: Json = False,
    store: Store = "",
) -> None:
    """Write a page with the pictures, texts, scores and verdicts of the pairs that a query finds.

    Pictures that safety rejected are not drawn.
    """
    from kontext.data.gallery.cards import cards_of
    from kontext.data.gallery.page import page

    where = dataset or named.dataset(at, store)
    catalog = opened.catalog(store)
    answer = catalog.query(query, at=at or None, dataset=partial(str, where))
    cards = cards_of(answer, catalog, opened.artifacts(store), where, at or None, most)
    html = page(cards, f"Pairs of {where}", query, answer.num_rows - len(cards))
    output.write_text(html, encoding="utf-8")
    found = {"file": str(output), "pairs": len(cards), "dataset": where}
    print_result(found, f"{len(cards)} pairs: {output}", as_json)
