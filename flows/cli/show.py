"""`kontext show`: a pair's pictures and text."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.shared import draw, named, opened
from flows.cli.shared.options import At, Dataset, Json, PairId, Panel, Store
from flows.cli.shared.show import print_result

PLACE = (Panel.DATA, 4)


def show(
    pair_id: PairId,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the files; else show/ in the home."),
    ] = None,
    at: At = "",
    dataset: Dataset = "",
    as_json: Json = False,
    store: Store = "",
) -> None:
    """Write a pair's context, target and instruction to a folder; a terminal also draws them."""
    from kontext.data.shards.lookup import read_pair
    from tasks.workspace import places

    where = dataset or named.dataset(at, store)
    found = read_pair(opened.catalog(store), opened.objects(store), pair_id, at or None, where)
    record = found.record
    folder = output or places(store).home / "show" / record["pair_id"][:12]
    folder.mkdir(parents=True, exist_ok=True)
    for name, png in found.pictures.items():
        (folder / f"{name}.png").write_bytes(png)
    (folder / "instruction.txt").write_text(record["instruction"] + "\n", encoding="utf-8")
    files = [
        str(folder / name) for name in (*(f"{n}.png" for n in found.pictures), "instruction.txt")
    ]
    if not as_json:
        draw.pictures(found.pictures)
    kind = f"{record['relation_class']}, {record['relation']}; {record['split']} of {found.dataset}"
    text = "\n".join([record["instruction"], f"({kind})", *files])
    print_result({"dataset": found.dataset, **record, "files": files}, text, as_json)
