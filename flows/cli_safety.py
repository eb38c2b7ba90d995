"""`kontext safety …`: the record of what the safety policy decided."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from kontext.errors import StoreError

app = typer.Typer(help="Check the ledger of safety decisions.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Store = Annotated[str, typer.Option("--store", help="file:///folder or s3://bucket/prefix.")]


@app.callback()
def _group() -> None:
    """Keep `verify` a command of its own."""


@app.command()
def verify(store: Store = "", as_json: Json = False) -> None:
    """Walk the ledger's hash chain. Fails where a decision was changed, removed or reordered."""
    from kontext.safety.ledger import Ledger
    from kontext.store.objects import open_store
    from tasks.workspace import places

    report = Ledger(open_store(places(store).store)).verify()
    if as_json:
        typer.echo(json.dumps(vars(report), indent=1))
    else:
        for problem in report.problems:
            typer.echo(problem, err=True)
        typer.echo(f"{report.segments} segments, {report.rows} decisions")
    if report.problems:
        raise StoreError(f"the ledger's chain is broken in {len(report.problems)} places")
    if not as_json:
        typer.echo("the chain is whole")
