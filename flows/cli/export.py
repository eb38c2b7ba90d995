"""`kontext export`: a model's weights for other tools."""

from typing import Annotated

import typer

from flows.cli.shared import named, opened
from flows.cli.shared.complete import complete_ref
from flows.cli.shared.options import Dtype, Json, NewFolder, Panel, Store, Text
from flows.cli.shared.show import print_result

PLACE = (Panel.MODELS, 3)


def export(
    ref: Annotated[
        str,
        typer.Argument(
            help="Model: name (model@NAME), artifact or folder.", autocompletion=complete_ref
        ),
    ],
    output: NewFolder,
    layout: Annotated[str, typer.Option(help="bfl or diffusers.")] = "diffusers",
    dtype: Dtype = "",
    text: Text = "",
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Write a model's weights in the layout that other tools read."""
    from kontext.edit.weights.model_store import export_weights

    model = named.model(ref, store)
    made = export_weights(model, layout, output, dtype, lambda: opened.artifacts(store), text)
    files = [f"{made['folder']}/{name}" for name in made["files"]]
    print_result(made, "\n".join([*files, made["note"]]), as_json)
