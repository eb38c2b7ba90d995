"""`kontext artifacts diff|export|import|rebuild`: comparing, moving and repeating artifacts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kontext.errors import ArtifactError

if TYPE_CHECKING:
    from kontext.store.transfer import Transfer

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Store = Annotated[str, typer.Option("--store", help="file:///folder or s3://bucket/prefix.")]
Ref = Annotated[str, typer.Argument(help="stage/digest, a digest prefix, a tag or a stage name.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("diff")(diff)
    app.command("export")(export)
    app.command("import")(import_)
    app.command("rebuild")(rebuild)


def diff(before: Ref, after: Ref, store: Store = "", as_json: Json = False) -> None:
    """Say what differs between two artifacts: recipe, data, code and figures."""
    from kontext.store.diff import diff as compare
    from tasks.workspace import open_artifacts, places

    found = compare(open_artifacts(places(store)), before, after)
    parts = {
        "recipe": found.recipe,
        "data": found.data,
        "code": found.code,
        "metrics": found.metrics,
    }
    if as_json:
        data = {name: [vars(change) for change in changes] for name, changes in parts.items()}
        typer.echo(json.dumps({"before": found.before, "after": found.after, **data}, indent=1))
        return
    typer.echo(f"{'/'.join(found.before)} → {'/'.join(found.after)}")
    for name, changes in parts.items():
        typer.echo(f"\n{name}" + ("" if changes else ": equal"))
        for change in changes:
            typer.echo(f"  {change.name:36} {_short(change.before)} → {_short(change.after)}")


def _short(value: Any) -> str:
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 48 else text[:45] + "..."


def export(
    ref: Ref,
    output: Annotated[str, typer.Argument(help="Folder, NAME.tar, or any store's URL.")],
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Copy an artifact with everything it was made from into a folder, a tar file or a store."""
    import tempfile

    from kontext.remake import import_artifacts
    from kontext.store.artifacts import ArtifactStore
    from kontext.store.objects import open_store
    from kontext.store.transfer import is_archive, write_archive
    from tasks.workspace import open_artifacts, places

    at = places(store)
    source = open_artifacts(at)
    (at.home / "scratch").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=at.home / "scratch") as temporary:
        where = f"{temporary}/store" if is_archive(output) else output
        target = ArtifactStore(open_store(where), Path(temporary, "cache"))
        found = import_artifacts(source, target, ref)
        if is_archive(output):
            write_archive(Path(where), Path(output))
    _tell(found, f"exported to {output}", as_json)


def import_(
    source: Annotated[str, typer.Argument(help="Folder, tar file or store that was exported.")],
    ref: Annotated[str, typer.Argument(help="Only this artifact and what it needs.")] = "",
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Copy artifacts from an export into the store, then hash every one again."""
    from kontext.remake import import_artifacts
    from kontext.store.transfer import opened
    from tasks.workspace import open_artifacts, places

    at = places(store)
    target = open_artifacts(at)
    with opened(source, at.home / "scratch") as exported:
        found = import_artifacts(exported, target, ref or None)
    for stage, digest in found.artifacts:
        if problems := target.verify(f"{stage}/{digest}").problems:
            worst = problems[0]
            raise ArtifactError(f"after the import {worst.ref} {worst.file}: {worst.problem}")
    _tell(found, f"imported from {source}, every digest intact", as_json)


def _tell(found: Transfer, what: str, as_json: bool) -> None:
    from tasks.markdown import size

    if as_json:
        data = {**vars(found), "artifacts": ["/".join(ref) for ref in found.artifacts]}
        typer.echo(json.dumps(data, indent=1))
        return
    for stage, digest in found.artifacts:
        typer.echo(f"{stage}/{digest}")
    typer.echo(
        f"{what}: {len(found.artifacts)} artifacts ({found.present} were there), "
        f"{found.blobs} files, {size(found.bytes)}"
    )


def rebuild(ref: Ref, store: Store = "", as_json: Json = False) -> None:
    """Make an artifact again from its manifest, apart from the store, and compare every byte."""
    from kontext.remake import remake
    from kontext.stages import STAGES
    from tasks.workspace import open_artifacts, places

    at = places(store)
    found = remake(open_artifacts(at), ref, at.home, STAGES)
    if as_json:
        typer.echo(json.dumps(vars(found), indent=1))
    why = " (the code has changed since)" if found.code_changed else ""
    if found.different:
        names = ", ".join(found.different[:5])
        count = len(found.different)
        raise ArtifactError(f"{found.ref}: {count} of {found.files} files differ{why}: {names}")
    if not as_json:
        typer.echo(f"{found.ref}: {found.files} files made again, all bit-identical{why}")
