"""`kontext safety …`: the record of what the safety policy decided."""

from typing import Annotated

import typer

from flows.cli.shared import opened
from flows.cli.shared.options import Json, Panel, Store
from flows.cli.shared.show import print_json, print_table, say
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


@app.command()
def sweep(
    deep: Annotated[
        bool, typer.Option("--deep", help="Hash the stored pixels again, in all orientations.")
    ] = False,
    purge: Annotated[
        bool, typer.Option("--purge", help="Delete every artifact that still holds what was taken.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what is named and what consumed it.")
    ] = False,
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Match everything that was ever kept with today's hash lists and opt-outs.

    What is named is taken out of every dataset's newest version, as a new version, and every
    artifact and checkpoint that was made with it is listed.
    """
    from kontext.data.sweep.purge import purge as delete
    from kontext.data.sweep.sweep import Place
    from kontext.data.sweep.sweep import sweep as sweep_all
    from kontext.safety.hashes import HashGate
    from kontext.stages import STAGES
    from schemas.sections.data import IngestConfig

    found, home = opened.artifacts(store), opened.home()
    gate = HashGate.from_config(IngestConfig(), home)
    for note in gate.notes:
        say(note.removeprefix("allow_unlisted: "))
    place = Place(found, opened.catalog(store), home, STAGES)
    swept = sweep_all(place, gate, deep=deep, dry_run=dry_run)
    purged = delete(found, place.catalog, home, swept.consumers) if purge and not dry_run else None
    if as_json:
        print_json({**swept.record(), "purged": None if purged is None else vars(purged)})
        return
    taken = ", ".join(f"{count} {reason}" for reason, count in sorted(swept.taken.items()))
    typer.echo(f"{swept.kept:,} pictures were kept; named: {taken or 'none'}")
    for version in swept.versions:
        typer.echo(
            f"{version['before']} → {version['after']}: {version['pairs']} pairs are gone, "
            f"{version['shards_cut']} shards cut, {version['shards_same']} as they were"
        )
    rows = [
        (f"{one.stage}/{one.digest}", one.pairs, " ".join(one.splits), " ".join(one.tags))
        for one in swept.consumers
    ]
    if rows:
        print_table(rows, ("made with it", "pairs", "splits", "tags"), right=(1,))
    if purged is not None:
        typer.echo(f"deleted: {len(purged.artifacts)} artifacts, {purged.blobs} files")
        for line in purged.elsewhere:
            typer.echo(f"not deleted: {line}")
