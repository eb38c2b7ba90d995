"""`kontext safety …`: the record of what the safety policy decided."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.shared import opened
from flows.cli.shared.bar import edit_bar
from flows.cli.shared.options import Json, Panel, Store
from flows.cli.shared.show import print_json, print_table, say
from kontext.errors import ExchangeError, GateError, KontextError, LedgerError

if TYPE_CHECKING:
    from kontext.safety.ledger import Ledger

PLACE = (Panel.STORE, 3)
app = typer.Typer(
    help="Ledger, report, incidents, exchanges, sweeps, hash test.", no_args_is_help=True
)
incidents = typer.Typer(help="Pictures that are on a list of known harmful images.")
app.add_typer(incidents, name="incidents")


@app.command()
def verify(store: Store = "", as_json: Json = False) -> None:
    """Check the signed ledger: nothing changed, cut off, added, or missing for an artifact.

    Time stamps are checked too, by the certificates that KONTEXT_TSA_ROOTS names.
    """
    from kontext.safety.ledger import Ledger
    from kontext.safety.ledger_check import check_ledger
    from kontext.safety.stamps import with_stamps

    found = opened.artifacts(store)
    ledger = Ledger(found.objects, opened.home())
    report, stamps = with_stamps(check_ledger(ledger, found), ledger)
    if as_json:
        print_json({**vars(report), **({"stamps": len(stamps)} if stamps else {})})
    else:
        for line in (*report.problems, *report.notes):
            say(line)
        typer.echo(f"{report.segments} segments, {report.rows} decisions")
        for one in stamps:
            typer.echo(
                f"{one.chain} up to segment {one.seq} was there at {one.at:%Y-%m-%d %H:%M} UTC"
            )
    if report.problems:
        raise LedgerError(f"the ledger is not as it was written: {len(report.problems)} problems")
    if not as_json:
        missing = "; what is said above could not be checked" if report.notes else ""
        typer.echo(f"the ledger is whole{missing}")


@app.command("stamp")
def stamp_(
    url: Annotated[str, typer.Argument(help="Address of a time-stamp authority (RFC 3161).")],
    store: Store = "",
) -> None:
    """Have an authority say that the ledger is as it is today.

    KONTEXT_TSA_ROOTS names a PEM file with the certificates that are believed.
    """
    from kontext.safety.ledger import EDITS, Ledger
    from kontext.safety.stamps import ROOTS, roots_file, stamp

    roots = roots_file()
    if roots is None:
        raise typer.BadParameter(f"set {ROOTS} to a PEM file of certificates that are believed")
    ledger = Ledger(opened.artifacts(store).objects, opened.home())
    for each in (ledger, ledger.of_chain(EDITS)):
        made = stamp(each, url, roots)
        said = (
            "nothing new" if made is None else f"segment {made.seq}, {made.at:%Y-%m-%d %H:%M} UTC"
        )
        typer.echo(f"{each.chain}: {said}")


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
def report(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where to write: .html or .json."),
    ] = None,
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Write the safety report: decisions, lists, policies, canaries, edits, incidents, gaps."""
    from kontext.safety.ledger import Ledger
    from kontext.safety.report import safety_report
    from kontext.safety.report_page import report_page

    found, home = opened.artifacts(store), opened.home()
    made = safety_report(Ledger(found.objects, home), found, home)
    if as_json:
        print_json(made.as_json())
    if as_json and output is None:
        return
    path = output or home / "reports" / "safety.html"
    if path.suffix not in (".html", ".json"):
        raise typer.BadParameter(f"{path.name}: a report is .html or .json")
    text = report_page(made) if path.suffix == ".html" else json.dumps(made.as_json(), indent=1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise KontextError(f"cannot write {path}: {error.strerror}") from error
    if not as_json:
        for problem in made.problems:
            say(problem)
        typer.echo(path)


@incidents.callback(invoke_without_command=True)
def _incidents(context: typer.Context, store: Store = "", as_json: Json = False) -> None:
    """List the incidents, or close one. The runbook is docs/safety-runbook.md."""
    if context.invoked_subcommand is None:
        list_(store, as_json)


@incidents.command("list")
def list_(store: Store = "", as_json: Json = False) -> None:
    """List the incidents, open ones first: keyed ids, when and where, and which list."""
    from kontext.safety.incidents import incidents_of, rows_of

    found = incidents_of(rows_of(_ledger(store)))
    if as_json:
        print_json(json.loads(json.dumps([vars(one) for one in found], default=str)))
        return
    for one in found:
        state = "open" if one.open else f"closed: {one.note}"
        when = f"{one.found_at:%Y-%m-%d %H:%M}"
        typer.echo(f"{one.id}  {when}  {one.where}  {one.provider}  {one.reason}  {state}")
    say(f"{sum(one.open for one in found)} open, {sum(not one.open for one in found)} closed")


@incidents.command("close")
def close_incident(
    incident: Annotated[str, typer.Argument(help="Its id, or the beginning of it.")],
    note: Annotated[
        str,
        typer.Option(help="What was done, in one line, without names, addresses or content."),
    ],
    store: Store = "",
) -> None:
    """Close an incident that a trained operator has dealt with. The note stays in the ledger."""
    from kontext.safety.incidents import close

    closed = close(_ledger(store), incident, note)
    typer.echo(f"incident {closed.id} is closed")


def _ledger(store: str) -> "Ledger":
    from kontext.safety.ledger import Ledger

    return Ledger(opened.artifacts(store).objects, opened.home())


@app.command()
def fetch(
    names: Annotated[
        list[str] | None, typer.Argument(help="Exchanges of HOME/exchanges; by default all.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Fetch everything anew, not what has changed.")
    ] = False,
    patience: Annotated[
        float, typer.Option(min=1, help="Seconds without an answer after which to give up.")
    ] = 600,
    as_json: Json = False,
) -> None:
    """Bring the hash lists of exchanges (NCMEC, StopNCII, …) up to date, encrypted in the home.

    A fetch that fails leaves the last whole list in force; the others are fetched all the same.
    """
    from kontext.safety.exchanges.configured import FOLDER, configured
    from kontext.safety.fetch import fetch as fetch_one

    home = opened.home()
    known = configured(home)
    if not known:
        raise ExchangeError(f"no exchange is set up: write {home / FOLDER}/NAME.yaml")
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise typer.BadParameter(f"no exchange {unknown[0]}: there are {', '.join(known)}")
    done, failed = [], []
    for name in names or known:
        try:
            done.append(fetch_one(known[name], home, full=full, patience=patience))
        except KontextError as error:
            say(str(error))
            failed.append(name)
    if as_json:
        print_json({"fetched": [vars(one) for one in done], "failed": failed})
    for one in () if as_json else done:
        unused = ", ".join(f"{count:,} {kind}" for kind, count in one.unused.items())
        typer.echo(
            f"{one.name}@{one.version} of {one.date}: {one.hashes:,} hashes "
            f"(+{one.added:,} -{one.removed:,}); not used: {unused or 'none'}"
            + (f"; malformed: {one.malformed:,}" if one.malformed else "")
        )
    if failed:
        raise ExchangeError(f"not fetched: {', '.join(failed)}")


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
    from kontext.safety.opt_outs import opt_outs
    from kontext.safety.proof import whole_gate
    from kontext.stages import STAGES
    from schemas.sections.data import IngestConfig

    found, home = opened.artifacts(store), opened.home()
    gate = whole_gate(IngestConfig(), home)
    for note in gate.notes:
        say(note.removeprefix("allow_unlisted: "))
    place = Place(found, opened.catalog(store), home, STAGES)
    swept = sweep_all(place, gate, opt_outs(home), deep=deep, dry_run=dry_run)
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


@app.command()
def test(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Folders of pictures; by default packages' art.")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="HTML file to write, and JSON beside it.")
    ] = Path("safety-test.html"),
    pictures: Annotated[int, typer.Option(min=1, help="How many are transformed.")] = 500,
    processes: Annotated[int, typer.Option(min=1, help="Processes at work.")] = 2,
    texts: Annotated[
        bool, typer.Option("--texts", help="Test rules and classifier of texts instead: seconds.")
    ] = False,
    harmless: Annotated[
        list[Path] | None,
        typer.Option(help="Test the policy's classifiers instead, on folders of harmless pictures"),
    ] = None,
    harmful: Annotated[
        list[Path] | None, typer.Option(help="and of harmful ones, where you may hold them.")
    ] = None,
    policy: Annotated[str, typer.Option(help="Policy whose limits are met.")] = "default",
    as_json: Json = False,
) -> None:
    """Measure how well the hash gate knows real pictures again, and how often it errs.

    Exits 1 where JPEG, resizing, turning or mild color is seen through in less than 99 %. With
    --texts: where less than 95 % of the attack phrasings or more than 3 % of the twins are stopped.
    """
    if texts:
        _test_texts(output, policy, as_json)
        return
    if harmless or harmful:
        _test_classifiers(output, harmful or [], harmless or [], policy, processes, as_json)
        return
    from kontext.safety.hash_test.measure import PLACES, measure, pictures_in
    from kontext.safety.hash_test.page import page

    places = [Path(place) for place in PLACES]
    files = pictures_in(folders or [place for place in places if place.is_dir()])
    say(f"{len(files)} pictures, {pictures} of them transformed")
    with edit_bar() as shown:
        result = measure(files, pictures, processes, shown.on_step)
    lines = [
        f"{row.family:12} {row.name:22} {row.gate.value:7.1%} ({row.gate.interval})"
        for row in result.rows
    ]
    for name, false in (("false matches", result.false), ("of cut-outs", result.cut_outs)):
        lines.append(f"{name}: {false.rate.hits} among {false.pairs:,} pairs")
    _tell(output, page(result), result.record(), lines, as_json)
    if result.failed:
        raise GateError(f"the hash gate does not reach what is required: {result.failed}")


def _test_classifiers(
    output: Path,
    harmful: Sequence[Path],
    harmless: Sequence[Path],
    policy: str,
    threads: int,
    as_json: bool,
) -> None:
    from kontext.safety.image_test.measure import measure
    from kontext.safety.image_test.page import page, share_of
    from kontext.safety.policy import load_policy

    with edit_bar() as shown:
        result = measure(harmful, harmless, load_policy(policy), threads, shown.on_step)
    lines = [
        f"{row.name:14} harmful {share_of(row.recall)}   harmless {share_of(row.false)}"
        for row in result.rows
    ]
    _tell(output, page(result), result.record(), lines, as_json)


def _test_texts(output: Path, policy: str, as_json: bool) -> None:
    from kontext.safety.policy import load_policy
    from kontext.safety.text_test.measure import measure
    from kontext.safety.text_test.page import page

    result = measure(load_policy(policy).texts.limit)
    lines = [
        f"{row.name:14} stopped {row.attacks.hits:3} of {row.attacks.of:3} "
        f"({row.attacks.interval})   twins {row.twins.hits:2} of {row.twins.of:3} "
        f"({row.twins.interval})"
        for row in result.rows
    ]
    _tell(output, page(result), result.record(), lines, as_json)
    if result.failed:
        raise GateError(f"texts do not reach what is required: {', '.join(result.failed)}")


def _tell(
    output: Path, page: str, record: dict[str, Any], lines: Sequence[str], as_json: bool
) -> None:
    """Write a test's page and its record beside it, and print the record or the lines."""
    output.write_text(page, encoding="utf-8")
    output.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if as_json:
        print_json(record)
        return
    for line in (*lines, f"written: {output}"):
        typer.echo(line)
