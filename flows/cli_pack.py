"""`kontext pack`: a recipe's dataset as one file, for a machine without network."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated

import typer

from kontext.errors import RecipeError

_STAGES = ("ingest", "mine", "caption", "screen", "shard")


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(pack)


def pack(
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write.")],
    recipe: Annotated[str, typer.Option("--recipe", "-r", help="Named recipe.")] = "h200",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", help="Recipe change as section.key=value; repeatable."),
    ] = None,
    store: Annotated[str, typer.Option("--store", help="file:///folder or s3://…")] = "",
    most: Annotated[float, typer.Option("--max-mib", help="Fail above so many MiB.")] = 60.0,
    parts: Annotated[int, typer.Option(help="Streams of images: more pack faster, larger.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make the recipe's shards (what is done is reused) and pack them with all that training needs.

    Then, anywhere: python -m kontext.packed FILE FOLDER --seconds 540
    """
    from kontext.data.packing import make_pack
    from kontext.models.text import load_text_encoder
    from kontext.stage import LogReporter
    from tasks.workspace import open_engine, places, resolve_recipe

    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    log = logging.getLogger("kontext")
    log.setLevel(logging.INFO)
    chosen = resolve_recipe(recipe, overrides or [])
    engine = open_engine(chosen, places(store))
    for stage in _STAGES:
        engine.run_stage(stage, LogReporter(log))
    made = make_pack(engine.artifact("shard"), chosen, load_text_encoder(), out, parts)
    size = out.stat().st_size / 2**20
    told = {
        "file": str(out),
        "mib": round(size, 1),
        "images": len(made.images),
        "texts": len(made.instructions),
        "pairs": len(made.pairs.target),
    }
    typer.echo(
        json.dumps(told, indent=1)
        if as_json
        else f"{out}: {size:.1f} MiB, {told['images']:,} images, {told['pairs']:,} pairs, "
        f"{told['texts']:,} texts"
    )
    if size > most:
        raise RecipeError(f"{out} is {size:.1f} MiB, above {most:g}: take fewer images or pairs")
