"""`kontext source …`: what a folder or table of one's own is, before anything is read."""

from typing import Annotated

import typer

from flows.cli.shared.licence import licence_unknown
from flows.cli.shared.options import Json, Panel
from flows.cli.shared.show import print_json, print_table, say

PLACE = (Panel.DATA, 1)
app = typer.Typer(help="Say what a path of your own holds, and what a run will make of it.")
_SAMPLES = 5


@app.command()
def inspect(
    path: Annotated[str, typer.Argument(help="Folder, table, tar, video, or s3://bucket/prefix.")],
    samples: Annotated[int, typer.Option(min=0, help="Rows to show.")] = _SAMPLES,
    as_json: Json = False,
) -> None:
    """Show layout, counts, sample rows and what is missing. No picture is read."""
    from dataclasses import asdict

    from kontext.data.sources.found import findings, source_at
    from schemas.words import counted

    found = findings(source_at(path), samples)
    if as_json:
        print_json({**asdict(found), "source": found.source.model_dump(mode="json")})
        return
    counts = [
        ("layout", found.layout),
        ("pictures", f"{found.pictures:,}"),
        ("edits with an instruction", f"{found.pairs:,}"),
        ("of them with references", f"{found.references:,}"),
        ("captions", f"{found.captions:,}"),
        *(
            [("to fetch", f"{found.addresses:,} from {counted(found.hosts, 'host', 'hosts')}")]
            * bool(found.addresses)
        ),
        *(
            (f"licence {name}", counted(count, "picture", "pictures"))
            for name, count in found.licences.items()
        ),
        *(
            (f"label {name}", counted(count, "picture", "pictures"))
            for name, count in found.labels.items()
        ),
        *((f"left out: {reason}", f"{count:,}") for reason, count in found.skipped.items()),
    ]
    print_table(counts, ("what", "found"))
    rows = [(pair.row, " + ".join(pair.contexts), pair.instruction) for pair in found.samples]
    if rows:
        typer.echo("")
        print_table(rows, ("row", "context", "instruction"))
    for warning in found.warnings:
        say(f"warning: {warning}")
    if unknown := licence_unknown(found):
        say(unknown)
    say(f"use it: kontext run --source {path}")


@app.command()
def layouts() -> None:
    """Draw the layouts of pairs that are read."""
    from kontext.data.layouts import drawings

    typer.echo(drawings())
