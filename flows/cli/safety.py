"""`kontext safety …`: the record of what the safety policy decided."""

from typing import Annotated

import typer

from flows.cli.shared import opened
from flows.cli.shared.options import Json, Panel, Store
from flows.cli.shared.show import print_json, say
from kontext.errors import LedgerError

PLACE = (Panel.STORE, 3)
app = typer.Typer(help="Check the ledger of safety decisions.", no_args_is_help=True)


@app.command()
def verify(store: Store = "", as_json: Json = False) -> None:
    """Check the signed ledger: nothing changed, cut off, added, or missing for an artifact."""
    from kontext.safety.ledger import Ledger
    from kontext.safety.ledger_check import check_ledger

    found = opened.artifacts(store)
    report = check_ledger(Ledger(found.objects, opened.home()), found)
    if as_json:
        print_json(vars(report))
    else:
        for line in (*report.problems, *report.notes):
            say(line)
        typer.echo(f"{report.segments} segments, {report.rows} decisions")
    if report.problems:
        raise LedgerError(f"the ledger is not as it was written: {len(report.problems)} problems")
    if not as_json:
        typer.echo("the ledger is whole")


@app.command()
def restart(
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it: without this it is only said.")
    ] = False,
    store: Store = "",
) -> None:
    """Set the ledger aside and begin a new one with the decisions of the artifacts there are.

    For a store that was emptied on purpose, a lost safety key, and ledgers from before they were
    signed. Nothing is deleted: the old ledger lies in ledger-before-TIME/.
    """
    from kontext.safety.ledger import Ledger
    from kontext.safety.ledger_check import restart as begin_anew

    found = opened.artifacts(store)
    if not yes:
        raise typer.BadParameter("the present ledger will not be looked at any more: add --yes")
    entered = begin_anew(Ledger(found.objects, opened.home()), found)
    typer.echo(f"a new ledger begins with the decisions of {entered} artifacts")
