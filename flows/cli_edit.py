"""`kontext edit`: decode guard → policy → editor → policy → file with provenance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(edit)


def edit(
    image: Annotated[Path, typer.Argument(help="Image to edit (PNG, JPEG, WebP, GIF, …).")],
    instruction: Annotated[str, typer.Argument(help='What to change, e.g. "make it night".')],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the PNG.")],
    weights: Annotated[
        str, typer.Option("--weights", "-w", help="Model folder, artifact or tag; else the latest.")
    ] = "",
    steps: Annotated[int | None, typer.Option(min=1, max=200, help="Sampling steps.")] = None,
    seed: Annotated[int, typer.Option(help="Noise seed: same seed, same picture.")] = 0,
    guidance: Annotated[float | None, typer.Option(min=0.0, help="Guidance strength.")] = None,
    policy: Annotated[
        str, typer.Option(help="Safety policy: default, no-nudenet, or a .json file.")
    ] = "default",
    hash_list: Annotated[
        list[str] | None, typer.Option(help="Hash list file to refuse matches of; repeatable.")
    ] = None,
    store: Annotated[
        str, typer.Option("--store", help="file:///folder or s3://bucket/prefix.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Edit one image with trained weights. The safety policy sees what goes in and comes out."""
    from flows.edit import EditRequest, edit_file

    request = EditRequest(
        image,
        instruction,
        output,
        weights,
        steps,
        seed,
        guidance,
        store,
        policy,
        tuple(hash_list or ()),
    )
    provenance = edit_file(request)
    if as_json:
        typer.echo(json.dumps(provenance, indent=1))
    else:
        typer.echo(f"{output}  ({provenance['seconds']:.1f} s, {provenance['model']})")
