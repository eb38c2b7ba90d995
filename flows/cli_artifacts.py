"""`kontext artifacts …`: the versioned outputs of stages."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows import cli_transfer
from kontext.errors import ArtifactError

if TYPE_CHECKING:
    from kontext.store.artifacts import ArtifactStore
    from schemas.manifest import Manifest

app = typer.Typer(help="List, inspect, verify and clean versioned stage outputs.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Store = Annotated[str, typer.Option("--store", help="file:///folder or s3://bucket/prefix.")]
Grace = Annotated[str, typer.Option(help="Keep what is younger, e.g. 7d or 12h.")]
Ref = Annotated[str, typer.Argument(help="stage/digest, a digest prefix, a tag or a stage name.")]


def open_artifacts(store: str) -> ArtifactStore:
    """The artifact store of the environment."""
    from tasks.workspace import open_artifacts as open_at
    from tasks.workspace import places

    return open_at(places(store))


@app.command("list")
def list_artifacts(
    stage: Annotated[str, typer.Argument(help="Only this stage.")] = "",
    store: Store = "",
    as_json: Json = False,
) -> None:
    """List finished artifacts, oldest first, with their tags."""
    from tasks.markdown import duration, size

    found = open_artifacts(store)
    tags: dict[tuple[str, str], list[str]] = {}
    for name, target in found.tags().items():
        tags.setdefault(target, []).append(name)
    rows = [_row(m, tags.get((m.stage, m.digest), [])) for m in found.list(stage or None)]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        typer.echo(
            f"{row['stage'] + '/' + row['digest']:36} {row['created_at'][:19]}  "
            f"{duration(row['seconds']):>12}  {size(row['bytes']):>9}  {' '.join(row['tags'])}"
        )
    if not rows:
        typer.echo("no artifacts yet: `kontext run` makes them", err=True)


def _row(manifest: Manifest, tags: list[str]) -> dict[str, Any]:
    return {
        "stage": manifest.stage,
        "digest": manifest.digest,
        "recipe": manifest.recipe,
        "created_at": manifest.created_at,
        "seconds": manifest.seconds,
        "files": len(manifest.files),
        "bytes": sum(file.size for file in manifest.files),
        "tags": sorted(tags),
    }


@app.command()
def show(ref: Ref, store: Store = "", as_json: Json = False) -> None:
    """Show one artifact's manifest: files, figures, notes, inputs, code and packages."""
    from tasks.markdown import duration, number, size

    manifest = open_artifacts(store).show(ref).manifest
    if as_json:
        typer.echo(manifest.model_dump_json(indent=1))
        return
    typer.echo(f"{manifest.stage}/{manifest.digest}")
    typer.echo(f"recipe {manifest.recipe}, made {manifest.created_at} in ", nl=False)
    typer.echo(f"{duration(manifest.seconds)}, code {manifest.code_digest}")
    typer.echo(f"git commit {manifest.git_commit or 'unknown'}, run {manifest.run or 'direct'}")
    for title, rows in (
        ("inputs", list(manifest.inputs.items())),
        ("figures", [(k, number(v)) for k, v in manifest.metrics.items()]),
        ("kernels", list(manifest.kernels.items())),
        ("files", [(f.name, f"{size(f.size)}  {f.sha256[:16]}") for f in manifest.files]),
        ("notes", [(note, "") for note in manifest.notes]),
    ):
        if rows:
            typer.echo(f"\n{title}")
            for name, value in rows:
                typer.echo(f"  {name:32} {value}".rstrip())


@app.command()
def lineage(ref: Ref, store: Store = "", as_json: Json = False) -> None:
    """Show what an artifact was made from and what was made from it (mermaid)."""
    from kontext.store.lineage import lineage as lineage_of

    found = lineage_of(open_artifacts(store), ref)
    if as_json:
        data = {
            "root": list(found.root),
            "nodes": [[m.stage, m.digest] for m in found.nodes],
            "edges": [[list(a), list(b)] for a, b in found.edges],
        }
        typer.echo(json.dumps(data, indent=1))
        return
    typer.echo(found.mermaid)


@app.command()
def verify(
    ref: Annotated[str, typer.Argument(help="One artifact; all without it.")] = "",
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Hash every stored file again and compare it with its manifest. Fails on any difference."""
    from tasks.markdown import size

    result = open_artifacts(store).verify(ref or None)
    if as_json:
        problems = [vars(problem) for problem in result.problems]
        data = {"artifacts": result.artifacts, "files": result.files, "problems": problems}
        typer.echo(json.dumps(data, indent=1))
    else:
        for problem in result.problems:
            typer.echo(f"{problem.ref} {problem.file}: {problem.problem}", err=True)
        typer.echo(f"{result.artifacts} artifacts, {result.files} files, {size(result.bytes)}")
    if result.problems:
        raise ArtifactError(f"{len(result.problems)} files do not match their manifests")
    if not as_json:
        typer.echo("all match their manifests")


@app.command()
def tag(
    name: Annotated[str, typer.Argument(help="Tag, e.g. model@champion.")],
    ref: Annotated[str, typer.Argument(help="Artifact it points at; empty with --delete.")] = "",
    delete: Annotated[bool, typer.Option("--delete", help="Remove the tag.")] = False,
    store: Store = "",
) -> None:
    """Point a movable tag at an artifact; garbage collection keeps what tags need."""
    found = open_artifacts(store)
    if delete:
        found.untag(name)
        typer.echo(f"removed {name}")
        return
    if not ref:
        raise typer.BadParameter("give the artifact that the tag points at")
    stage, digest = found.resolve(ref)
    found.tag(name, stage, digest)
    typer.echo(f"{name} → {stage}/{digest}")


def period(text: str) -> timedelta:
    """The time that 7d or 12h means. Raises typer.BadParameter."""
    match = re.fullmatch(r"(\d+)([dh])", text)
    if match is None:
        raise typer.BadParameter("grace is a number of days or hours, e.g. 7d or 12h")
    count = int(match[1])
    return timedelta(days=count) if match[2] == "d" else timedelta(hours=count)


@app.command()
def gc(
    delete: Annotated[
        bool, typer.Option("--delete/--dry-run", help="Really delete, or only say what would go.")
    ] = False,
    grace: Grace = "7d",
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Remove artifacts that no tag, dataset version or younger artifact needs, and their blobs."""
    from flows.cli_data import open_catalog
    from kontext.store.garbage import collect_garbage
    from tasks.markdown import size

    keep, artifacts = open_catalog(store).referenced(), open_artifacts(store)
    result = collect_garbage(artifacts, dry_run=not delete, grace=period(grace), keep=keep)
    if as_json:
        data = dict(vars(result))
        typer.echo(json.dumps({**data, "deleted": delete}, indent=1))
        return
    for stage, digest in result.artifacts:
        typer.echo(f"{stage}/{digest}")
    word = "removed" if delete else "would remove (give --delete)"
    typer.echo(
        f"{word}: {len(result.artifacts)} artifacts, {len(result.objects)} objects, "
        f"{size(result.bytes)}, {result.unfinished} unfinished writes"
    )


cli_transfer.add_to(app)
