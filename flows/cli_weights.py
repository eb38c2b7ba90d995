"""`kontext import`, `kontext export` and the words of `kontext doctor WEIGHTS`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

Store = Annotated[str, typer.Option("--store", help="file:///folder or s3://bucket/prefix.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Dtype = Annotated[
    str, typer.Option("--dtype", help="Of the transformer: bf16, fp16, fp32; else the file's own.")
]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("import")(import_)
    app.command()(export)


def import_(
    path: Annotated[
        Path,
        typer.Argument(help="FLUX.1 weights: BFL's .safetensors, diffusers' folder, model folder."),
    ],
    name: Annotated[str, typer.Option(help="Name of the model; else the file's.")] = "",
    dtype: Dtype = "",
    autoencoder: Annotated[
        Path | None, typer.Option(help="ae.safetensors or vae/ folder, if not beside it.")
    ] = None,
    text: Annotated[
        str, typer.Option(help="Text encoders, if not beside it: flux:FOLDER or minilm.")
    ] = "",
    lora: Annotated[Path | None, typer.Option(help="LoRA file to merge into it.")] = None,
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Take weights into the store as a versioned artifact, for edit --weights and export."""
    from flows.weights import ImportRequest, import_weights

    made = import_weights(ImportRequest(path, name, dtype, autoencoder, text, lora, store))
    if as_json:
        typer.echo(json.dumps(made, indent=1))
        return
    state = "was there already" if made["reused"] else "imported"
    typer.echo(
        f"{made['artifact']}  {state}: {made['geometry']}, {made['parameters']:,} parameters"
    )
    typer.echo(f'kontext edit IMAGE "INSTRUCTION" -o OUT.png --weights {made["tag"]}')


def export(
    ref: Annotated[str, typer.Argument(help="Artifact (publish or import), tag or model folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="New or empty folder.")],
    layout: Annotated[str, typer.Option(help="bfl or diffusers.")] = "diffusers",
    dtype: Dtype = "",
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Write a model's weights in the layout that other tools read."""
    from flows.weights import export_weights

    made = export_weights(ref, layout, output, dtype, store)
    if as_json:
        typer.echo(json.dumps(made, indent=1))
        return
    typer.echo("\n".join(f"{made['folder']}/{name}" for name in made["files"]))
    typer.echo(made["note"])


def doctor_weights(ref: str, store: str, as_json: bool) -> None:
    """Print what a weights file, folder or artifact is; exit 1 where keys do not fit."""
    from flows.weights import examine

    rows = examine(ref, store)
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
    else:
        typer.echo("\n\n".join(_text(row) for row in rows))
    if any(row["problems"] for row in rows):
        raise typer.Exit(1)


def _text(row: dict[str, Any]) -> str:
    dtypes = ", ".join(f"{n} x {kind}" for kind, n in row["dtypes"].items())
    lines = [
        f"{row['file']}",
        f"  {row['part']} in {row['layout']} layout: {row['model']}",
        f"  {row['parameters']:,} parameters{f' ({dtypes})' if dtypes else ''}",
        *(f"  ✘ {problem}" for problem in row["problems"]),
        f"  needs {row['needs']}",
    ]
    if row["assumed"]:
        lines.append(f"  ! not told by the tensors: {', '.join(row['assumed'])} (add config.json)")
    return "\n".join(lines)
