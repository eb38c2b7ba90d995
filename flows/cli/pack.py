"""`kontext pack`: a recipe's dataset as one file, for a machine without network."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.shared.options import Json, Panel, Recipe, Sets, Store
from flows.cli.shared.show import print_json
from kontext.errors import RecipeError

PLACE = (Panel.STORE, 2)
_STAGES = ("ingest", "mine", "caption", "screen", "shard")


def pack(
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write.")],
    recipe: Recipe = "h200",
    overrides: Sets = None,
    store: Store = "",
    most: Annotated[float, typer.Option("--max-mib", help="Fail above so many MiB.")] = 60.0,
    parts: Annotated[int, typer.Option(help="Streams of images: more pack faster, larger.")] = 1,
    as_json: Json = False,
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
    if as_json:
        print_json(told)
    else:
        typer.echo(
            f"{out}: {size:.1f} MiB, {told['images']:,} images, {told['pairs']:,} pairs, "
            f"{told['texts']:,} texts"
        )
    if size > most:
        raise RecipeError(f"{out} is {size:.1f} MiB, above {most:g}: take fewer images or pairs")
