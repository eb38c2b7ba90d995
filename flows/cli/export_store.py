"""`kontext export-store`: what a machine without network needs to train, as a folder or a tar."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.shared import opened
from flows.cli.shared.complete import complete_stage
from flows.cli.shared.options import Json, Panel, Recipe, Sets, Store, known_stage, known_stages
from flows.cli.shared.show import print_result
from kontext.errors import ArtifactError

PLACE = (Panel.STORE, 2)


def export_store(
    output: Annotated[str, typer.Argument(help="Folder, NAME.tar or NAME.tar.xz to write.")],
    recipe: Recipe = "h200",
    overrides: Sets = None,
    store: Store = "",
    until: Annotated[
        str,
        typer.Option(
            help="Last stage whose artifact is copied.",
            callback=known_stage,
            autocompletion=complete_stage,
        ),
    ] = "index",
    files_of: Annotated[
        list[str] | None,
        typer.Option(
            help="Stage whose files are copied, of others only manifests; repeatable.",
            callback=known_stages,
            autocompletion=complete_stage,
        ),
    ] = None,
    models: Annotated[bool, typer.Option(help="Copy MiniLM and EfficientNet-Lite0 too.")] = True,
    max_mib: Annotated[
        float, typer.Option(help="Largest size in MiB; above it the command fails (0: no limit).")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Write what a machine without network needs to train a recipe whose data stages are done.

    There: kontext run --direct --recipe NAME --from train-autoencoder --store file:///FOLDER
    """
    from kontext.exported import export_store as export
    from kontext.store.recipes import put_recipe
    from schemas.recipes import RECIPES

    written = Path(output).resolve()
    engine = opened.engine(recipe, overrides, store)
    with opened.exported_to(str(written), store) as target:
        done = export(engine, target, until, files_of or (), models)
        if recipe not in RECIPES:  # there is no file over there
            put_recipe(target.objects, opened.changed_recipe(recipe, None, store))
    files = [written] if written.is_file() else [p for p in written.rglob("*") if p.is_file()]
    # a shard has two names and one place
    sizes = {found.st_ino: found.st_size for found in (path.stat() for path in files)}
    mib = sum(sizes.values()) / 2**20
    refs = ["/".join(ref) for ref in done.artifacts]
    line = f"exported to {output}: {len(refs)} artifacts, {mib:.1f} MiB"
    result = {"output": output, "mib": round(mib, 1), "artifacts": refs}
    print_result(result, "\n".join([*refs, line]), as_json)
    if max_mib and mib > max_mib:
        raise ArtifactError(f"{output} is {mib:.1f} MiB, above {max_mib:g}")
