"""Options and arguments that several commands have, and the headings that list them."""

import re
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.shared.complete import complete_key, complete_recipe, complete_ref, complete_stage
from schemas.words import unknown


class Panel(StrEnum):
    """Headings of `kontext --help`, in this order."""

    RUN = "Run the pipeline"
    SERVER = "Server and scheduled jobs"
    MODELS = "Edit images, move weights"
    DATA = "Look at the data"
    STORE = "Look after the store"
    OTHER = "Other"


def _pair_id(value: str) -> str:
    if not value or set(value) - set("0123456789abcdef"):
        raise typer.BadParameter("a pair id is lower-case hexadecimal")
    return value


def known_stage(value: str) -> str:
    """The stage, or none. Raises typer.BadParameter."""
    from kontext.stages import STAGES

    if value and value not in STAGES:
        raise typer.BadParameter(unknown("stage", value, STAGES))
    return value


def known_stages(values: list[str] | None) -> list[str] | None:
    """The stages. Raises typer.BadParameter."""
    return None if values is None else [known_stage(value) for value in values]


def period(text: str) -> timedelta:
    """The time that 7d or 12h means. Raises typer.BadParameter."""
    match = re.fullmatch(r"(\d+)([dh])", text)
    if match is None:
        raise typer.BadParameter("grace is a number of days or hours, e.g. 7d or 12h")
    count = int(match[1])
    return timedelta(days=count) if match[2] == "d" else timedelta(hours=count)


Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Store = Annotated[str, typer.Option("--store", help="file:///folder or s3://bucket/prefix.")]
Recipe = Annotated[
    str,
    typer.Option(
        "--recipe",
        "-r",
        help="Named recipe, e.g. demo, or a YAML file (kontext recipe).",
        autocompletion=complete_recipe,
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        help="Recipe change as section.key=value (kontext recipe keys); repeatable.",
        autocompletion=complete_key,
    ),
]
Own = Annotated[
    list[str] | None,
    typer.Option(
        "--source", help="Your own pictures or pairs, in place of the recipe's sources; repeatable."
    ),
]
OwnName = Annotated[
    str, typer.Option("--name", help="With --source: the dataset's name; by default the folder's.")
]
Version = Annotated[
    list[str] | None,
    typer.Option(
        help="Artifact to use as it is: stage/digest or a tag; repeatable.",
        autocompletion=complete_ref,
    ),
]
_STAGE: Any = {"callback": known_stage, "autocompletion": complete_stage}
Only = Annotated[str, typer.Option(help="This stage and whatever depends on it.", **_STAGE)]
From = Annotated[str, typer.Option("--from", help="This stage and all later ones.", **_STAGE)]
Until = Annotated[str, typer.Option(help="Stop after this stage.", **_STAGE)]
Accept = Annotated[
    list[str] | None,
    typer.Option(
        help="Stage whose latest artifact is used although its code has changed; repeatable.",
        callback=known_stages,
        autocompletion=complete_stage,
    ),
]
PairId = Annotated[str, typer.Argument(help="Pair id or a unique start of it.", callback=_pair_id)]
At = Annotated[
    str, typer.Option("--at", help="As of a dataset version (demo@v1) or a snapshot number.")
]
Dataset = Annotated[
    str,
    typer.Option("--dataset", help="Dataset, or all; by default that of --at, or the home's own."),
]
Grace = Annotated[
    timedelta,
    typer.Option(metavar="PERIOD", help="Keep what is younger, e.g. 7d or 12h.", parser=period),
]
Ref = Annotated[
    str,
    typer.Argument(
        help="stage/digest, its start, a name, tag or stage.", autocompletion=complete_ref
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype", help="Data type of the transformer: bf16, fp16 or fp32; by default the file's."
    ),
]
Text = Annotated[
    str,
    typer.Option(
        "--text",
        metavar="FOLDER",
        help="Where the model's text encoders (T5, CLIP) are now, if they have moved.",
    ),
]
NewFolder = Annotated[Path, typer.Option("--output", "-o", help="New or empty folder.")]
Delete = Annotated[
    bool, typer.Option("--delete/--dry-run", help="Delete, or only list what would be deleted.")
]
