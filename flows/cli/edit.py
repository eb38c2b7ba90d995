"""`kontext edit`: changes an image as a sentence says."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from flows.cli.shared import named, opened
from flows.cli.shared.complete import complete_ref
from flows.cli.shared.options import Json, Panel, Store, Text
from flows.cli.shared.show import dim, print_json

PLACE = (Panel.MODELS, 1)

Words = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGE... INSTRUCTION",
        help="The image to edit, further images as references, and what to change, "
        'e.g. photo.png "make it night".',
    ),
]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="Where to write: .png, .jpg or .webp.")
]
Weights = Annotated[
    str,
    typer.Option(
        "--weights",
        "-w",
        help="Model: name (model@NAME), folder or artifact; by default see `kontext use`.",
        autocompletion=complete_ref,
    ),
]
Steps = Annotated[int | None, typer.Option(min=1, max=200, help="Sampling steps.")]
Seeds = Annotated[
    list[int] | None,
    typer.Option(
        help="Noise seed: same seed, same picture. Repeatable; several seeds write OUT-SEED each."
    ),
]
Then = Annotated[
    list[str] | None,
    typer.Option(help="Further instruction, applied to the result's latents; repeatable."),
]
References = Annotated[list[Path] | None, typer.Option(help="Further reference image; repeatable.")]
MaskFile = Annotated[
    Path | None, typer.Option(help="Image of the same size: edit where it is white, keep the rest.")
]
Guidance = Annotated[float | None, typer.Option(min=0.0, help="Guidance strength.")]
ImageGuidance = Annotated[
    float, typer.Option(min=0.0, help="Guidance on the images, for models trained for it.")
]
TrueCfg = Annotated[
    float,
    typer.Option(
        min=0.0, help="Classifier-free guidance on the text, for models with a guidance embedding."
    ),
]
KeepDetail = Annotated[
    bool | None,
    typer.Option(
        help="Restore detail that the autoencoder lost outside the edit, or not; by default as the "
        "model was published."
    ),
]
Size = Annotated[
    str,
    typer.Option(
        metavar="WIDTHxHEIGHT",
        help="Size of the result, in multiples of 16; by default that of the image.",
    ),
]
TileAbove = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="PIXELS",
        help="Encode and decode larger images in tiles: less memory, more time, the same picture.",
    ),
]
# kontext.models.quantize.Scheme and kontext.parallel.attention.Kernel, without importing torch
Quantize = Annotated[
    Literal["int8", "fp8"] | None,
    typer.Option(help="Hold the transformer in 8 bits: two thirds of bf16's memory."),
]
Kernel = Annotated[
    Literal["auto", "sdpa", "math", "flash2", "fa3", "fa4"],
    typer.Option(help="Attention kernel: checked before use, and recorded."),
]
Policy = Annotated[str, typer.Option(help="Safety policy: strict, research, … or a .yaml file.")]
HashLists = Annotated[
    list[str] | None, typer.Option(help="Hash list: images on it are refused; repeatable.")
]


def edit(
    words: Words,
    output: Output,
    weights: Weights = "",
    steps: Steps = None,
    seed: Seeds = None,
    then: Then = None,
    reference: References = None,
    mask: MaskFile = None,
    guidance: Guidance = None,
    image_guidance: ImageGuidance = 1.0,
    true_cfg: TrueCfg = 1.0,
    keep_detail: KeepDetail = None,
    size: Size = "",
    tile_above: TileAbove = None,
    quantize: Quantize = None,
    kernel: Kernel = "auto",
    text: Text = "",
    policy: Policy = "default",
    hash_list: HashLists = None,
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Edit an image with trained weights. The safety policy checks all inputs and results."""
    if len(words) < 2:
        raise typer.BadParameter("give an image and an instruction in quotes")
    from flows.cli.shared.bar import edit_bar
    from kontext.edit.edit_file import EditRequest, edit_file
    from kontext.edit.request import Options
    from kontext.safety.guard import EditGuard
    from kontext.store.objects import open_store

    *images, instruction = words
    request = EditRequest(
        images=(*map(Path, images), *(reference or ())),
        instruction=instruction,
        output=output,
        then=tuple(then or ()),
        weights=named.model(weights, store),
        options=Options(steps, guidance, image_guidance, true_cfg, keep_detail),
        seeds=tuple(dict.fromkeys(seed or [0])),
        mask=mask,
        size=_size(size),
        tile_above=tile_above,
        quantize=quantize,
        kernel=kernel,
        text=text,
    )
    # every edit and refusal is written into the ledger; weights in a store have made a home
    at = opened.at(store, write=Path(request.weights).is_dir())
    guard = EditGuard.of(at.home, open_store(at.store), policy, tuple(hash_list or ()))
    with edit_bar() as bar:
        made = edit_file(request, guard, lambda: opened.artifacts(store), bar.on_step, bar.on_phase)
    if as_json:
        print_json(made[0] if len(made) == 1 else made)
        return
    for note in made[0]["notes"]:
        dim(note)
    for row in made:
        typer.echo(_told(row))


def _told(row: dict[str, Any]) -> str:
    """One line about a file that was written."""
    size, at = row["size"], row["edited_at"]
    how = f"edited at {at}" + (f", brought back to {size}" if at != size else "")
    return f"{row['output']}  ({row['seconds']:.1f} s, {row['model']}, {how})"


def _size(text: str) -> tuple[int, int] | None:
    """(width, height) of `640x480`."""
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if text and not found:
        raise typer.BadParameter(f"--size is WIDTHxHEIGHT, such as 1248x832, not '{text}'")
    return (int(found[1]), int(found[2])) if found else None
