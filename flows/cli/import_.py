"""`kontext import`: weights from elsewhere into the store."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.shared import opened
from flows.cli.shared.options import Dtype, Json, Panel, Store
from flows.cli.shared.show import print_result

PLACE = (Panel.MODELS, 2)


def import_(
    path: Annotated[
        Path,
        typer.Argument(help="FLUX.1 weights: BFL's .safetensors, diffusers' folder, model folder."),
    ],
    name: Annotated[str, typer.Option(help="Name of the model; by default the file's.")] = "",
    dtype: Dtype = "",
    autoencoder: Annotated[
        Path | None, typer.Option(help="ae.safetensors or vae/ folder, if not next to PATH.")
    ] = None,
    text: Annotated[
        str, typer.Option(help="Text encoders, if not next to PATH or moved: a folder, or minilm.")
    ] = "",
    lora: Annotated[Path | None, typer.Option(help="LoRA file to merge into it.")] = None,
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Import weights into the store as an artifact, for `edit --weights` and `export`."""
    from kontext.edit.weights.model_store import ImportRequest, import_weights

    request = ImportRequest(path, name, dtype, autoencoder, text, lora)
    made = import_weights(request, opened.artifacts(store, write=True), opened.scratch())
    state = "was there already" if made["reused"] else "imported"
    text = (
        f"{made['artifact']}  {state}: {made['geometry']}, {made['parameters']:,} parameters, "
        f"made for {made['made_for']}\n"
        f'kontext edit IMAGE "INSTRUCTION" -o OUT.png --weights {made["tag"]}'
    )
    print_result(made, "\n".join([text, *made["notes"]]), as_json)
