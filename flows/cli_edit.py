"""`kontext edit`: decode guard → policy → editor → policy → file with provenance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

# kontext.models.quantize.Scheme and kontext.parallel.attention.Kernel, without importing torch
Scheme = Literal["int8", "fp8"]
Kernel = Literal["auto", "sdpa", "math", "flash2", "fa3", "fa4"]


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(edit)


def edit(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE... INSTRUCTION",
            help="The image to edit, further images as references, and what to change, "
            'e.g. photo.png "make it night".',
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where to write: .png, .jpg or .webp.")
    ],
    weights: Annotated[
        str, typer.Option("--weights", "-w", help="Model folder, artifact or tag; else the latest.")
    ] = "",
    steps: Annotated[int | None, typer.Option(min=1, max=200, help="Sampling steps.")] = None,
    seed: Annotated[
        list[int] | None,
        typer.Option(help="Noise seed: same seed, same picture; repeatable, OUT-SEED each."),
    ] = None,
    then: Annotated[
        list[str] | None,
        typer.Option(help="What to change next, on the result before it is decoded; repeatable."),
    ] = None,
    reference: Annotated[
        list[Path] | None, typer.Option(help="Further image to take from; repeatable.")
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(help="Image of the same size: edit where it is white, keep the rest."),
    ] = None,
    guidance: Annotated[float | None, typer.Option(min=0.0, help="Guidance strength.")] = None,
    image_guidance: Annotated[
        float, typer.Option(min=0.0, help="Guidance on the images, for models trained for it.")
    ] = 1.0,
    true_cfg: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Classifier-free guidance on the text, beside a guidance embedding (FLUX.1-dev).",
        ),
    ] = 1.0,
    keep_detail: Annotated[
        bool | None,
        typer.Option(
            help="Give back what the autoencoder lost of what the edit left alone, or leave the "
            "picture as decoded; else as the model was published.",
        ),
    ] = None,
    tile_above: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="PIXELS",
            help="Code images of more pixels in tiles: less memory, more time, the same picture.",
        ),
    ] = None,
    quantize: Annotated[
        Scheme | None,
        typer.Option(help="Hold the transformer in 8 bits: two thirds of bf16's memory."),
    ] = None,
    kernel: Annotated[
        Kernel, typer.Option(help="Attention kernel: checked before use, and recorded.")
    ] = "auto",
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
    """Edit an image with trained weights. The safety policy sees what goes in and comes out."""
    if len(words) < 2:
        raise typer.BadParameter("give an image and an instruction in quotes")
    from flows.bar import edit_bar
    from flows.edit import EditRequest, edit_file

    *images, instruction = words
    request = EditRequest(
        images=(*map(Path, images), *(reference or ())),
        instruction=instruction,
        output=output,
        then=tuple(then or ()),
        weights=weights,
        steps=steps,
        seeds=tuple(dict.fromkeys(seed or [0])),
        guidance=guidance,
        image_guidance=image_guidance,
        true_cfg=true_cfg,
        mask=mask,
        keep_detail=keep_detail,
        tile_above=tile_above,
        quantize=quantize,
        kernel=kernel,
        store=store,
        policy=policy,
        hash_lists=tuple(hash_list or ()),
    )
    with edit_bar() as bar:
        made = edit_file(request, bar.on_step, bar.on_phase)
    if as_json:
        typer.echo(json.dumps(made[0] if len(made) == 1 else made, indent=1))
        return
    for row in made:
        typer.echo(f"{row['output']}  ({row['seconds']:.1f} s, {row['model']})")
