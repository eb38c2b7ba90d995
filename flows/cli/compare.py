"""`kontext compare`: one page with the verdict over two or more evaluations."""

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.shared import opened
from flows.cli.shared.complete import complete_ref
from flows.cli.shared.options import Json, Panel, Store
from flows.cli.shared.show import print_json, say

PLACE = (Panel.MODELS, 8)

Refs = Annotated[
    list[str],
    typer.Argument(
        metavar="REF REF...",
        help="Models (model@NAME) or evaluations; a comma joins seeds of one recipe.",
        autocompletion=complete_ref,
    ),
]
Output = Annotated[
    Path,
    typer.Option("--output", "-o", help="HTML file; the figures as .json and .md beside it."),
]
Margin = Annotated[
    float,
    typer.Option(min=0.001, max=0.999, help="Difference of success that counts as none (0 to 1)."),
]


def compare(
    refs: Refs,
    output: Output = Path("compare.html"),
    margin: Margin = 0.05,
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Compare evaluations on the items that they share: each of the later with the first."""
    from kontext.evaluate.comparing.compared import compared
    from kontext.evaluate.comparing.page import page
    from kontext.evaluate.comparing.sides import opened as sides_of
    from kontext.evaluate.comparing.table import markdown

    artifacts = opened.artifacts(store)
    found = compared(sides_of(artifacts, refs), margin)
    text, told = markdown(found), found.as_dict()
    output.write_text(page(found, artifacts), encoding="utf-8")
    output.with_suffix(".json").write_text(
        json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
    )
    output.with_suffix(".md").write_text(text, encoding="utf-8")
    if as_json:
        print_json(told)
        return
    typer.echo(text, nl=False)
    say(f"{output.resolve()}")
