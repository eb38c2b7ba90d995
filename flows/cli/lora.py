"""`kontext lora …`: low-rank adapters out of a fine-tune, into a model, into other keys."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.cli.shared import named, opened
from flows.cli.shared.options import Json, NewFolder, Panel, Store
from flows.cli.shared.show import print_result

PLACE = (Panel.MODELS, 4)
app = typer.Typer(help="Low-rank adapters (LoRA): extract them, convert their files, merge them.")

Base = Annotated[
    str, typer.Argument(help="Model that the adapters are for: file, folder, name or artifact.")
]
Lora = Annotated[
    Path, typer.Argument(help="Adapters: diffusers', peft's, BFL's, ComfyUI's or kohya's keys.")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="File to write: .safetensors.")]
Layout = Annotated[
    Literal["diffusers", "bfl", "kohya"],
    typer.Option(help="Keys: of diffusers, of BFL (as ComfyUI writes them), or of kohya."),
]


@app.command()
def extract(
    base: Base,
    tuned: Annotated[str, typer.Argument(help="The same model, fine-tuned.")],
    output: Output,
    rank: Annotated[int, typer.Option(min=1, help="Rank of each adapter.")] = 16,
    layout: Layout = "diffusers",
    trigger: Annotated[
        str, typer.Option(help="Words that call up what was learned, kept in the file.")
    ] = "",
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Write the adapters that come closest to what a fine-tune changed."""
    from kontext.edit.weights.model_store import extract_lora

    models = named.model(base, store), named.model(tuned, store)
    made = extract_lora(*models, output, rank, layout, lambda: opened.artifacts(store), trigger)
    text = f"{made['file']}  {made['adapters']} adapters of rank {rank}, which miss "
    text += f"{made['lost']:.1%} of the change"
    if made["not_held"]:
        text += f"\nchanged too, but not held by adapters: {', '.join(made['not_held'])}"
    print_result(made, text, as_json)


@app.command()
def convert(
    base: Base,
    lora: Lora,
    output: Output,
    layout: Layout = "diffusers",
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Write adapters in other keys; of the model only the shapes are used."""
    from kontext.edit.weights.model_store import convert_lora

    model = named.model(base, store)
    made = convert_lora(model, lora, output, layout, lambda: opened.artifacts(store))
    text = f"{made['file']}  {made['adapters']} adapters in {layout} keys"
    print_result(made, "\n".join([text, *made["notes"]]), as_json)


@app.command()
def merge(
    base: Base,
    lora: Lora,
    output: NewFolder,
    strength: Annotated[
        float, typer.Option(help="Factor on the adapters' effect; 1: as trained.")
    ] = 1.0,
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Write a model folder with the adapters added, for edit --weights and export."""
    from kontext.edit.weights.model_store import merge_lora

    model = named.model(base, store)
    made = merge_lora(model, lora, output, strength, lambda: opened.artifacts(store))
    text = f"{made['folder']}  {made['model']} {made['digest'][:16]}\n"
    text += f'kontext edit IMAGE "INSTRUCTION" -o OUT.png --weights {made["folder"]}'
    print_result(made, "\n".join([text, *made["notes"]]), as_json)
