"""`kontext safety …`: the record of what the safety policy decided."""

import typer

from flows.cli.shared import opened
from flows.cli.shared.options import Json, Panel, Store
from flows.cli.shared.show import print_json, say
from kontext.errors import StoreError

PLACE = (Panel.STORE, 3)
app = typer.Typer(help="Check the ledger of safety decisions.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `verify` a command of its own."""


@app.command()
def verify(store: Store = "", as_json: Json = False) -> None:
    """Walk the ledger's hash chain. Fails where a decision was changed, removed or reordered."""
    from kontext.safety.ledger import Ledger

    report = Ledger(opened.objects(store)).verify()
    if as_json:
        print_json(vars(report))
    else:
        for problem in report.problems:
            say(problem)
        typer.echo(f"{report.segments} segments, {report.rows} decisions")
    if report.problems:
        raise StoreError(f"the ledger's chain is broken in {len(report.problems)} places")
    if not as_json:
        typer.echo("the chain is whole")
