"""`kontext artifacts …`: the versioned outputs of stages."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.shared import opened
from flows.cli.shared.complete import complete_stage
from flows.cli.shared.options import Delete, Grace, Json, Panel, Ref, Store
from flows.cli.shared.show import dim, print_json, print_result, print_table, say
from kontext.errors import ArtifactError
from tasks.markdown import duration, number, size

if TYPE_CHECKING:
    from kontext.store.artifacts.artifact_store import Artifact, ArtifactStore
    from kontext.store.artifacts.transfer import Transfer
    from schemas.manifest import Manifest

PLACE = (Panel.STORE, 1)
app = typer.Typer(help="List, inspect, verify and clean versioned stage outputs.")


@app.command("list")
def list_artifacts(
    stage: Annotated[
        str, typer.Argument(help="Only this stage.", autocompletion=complete_stage)
    ] = "",
    store: Store = "",
    as_json: Json = False,
) -> None:
    """List finished artifacts, oldest first, with their tags."""
    found = opened.artifacts(store)
    tags: dict[tuple[str, str], list[str]] = {}
    for name, target in found.tags().items():
        tags.setdefault(target, []).append(name)
    rows = [_row(m, tags.get((m.stage, m.digest), [])) for m in found.list(stage or None)]
    if as_json:
        print_json(rows)
        return
    cells = [
        (
            f"{row['stage']}/{row['digest']}",
            row["created_at"][:19],
            duration(row["seconds"]),
            size(row["bytes"]),
            " ".join(row["tags"]),
        )
        for row in rows
    ]
    print_table(cells, ("artifact", "made (UTC)", "in", "size", "tags"), right=(2, 3))
    if not rows:
        say("no artifacts yet: `kontext run` makes them")


def _opened(store: str, *refs: str) -> ArtifactStore:
    """The store; of a stage's name, whose latest artifact is meant, it is said which that is."""
    found = opened.artifacts(store)
    for ref in filter(None, refs):
        if found.tagged(f"latest/{ref}") and not found.tagged(ref):
            manifest = found.show(ref).manifest
            dim(f"{ref} is {manifest.stage}/{manifest.digest} (recipe {manifest.recipe})")
    return found


def _row(manifest: Manifest, tags: list[str]) -> dict[str, Any]:
    return {
        **manifest.model_dump(include={"stage", "digest", "recipe", "created_at", "seconds"}),
        "files": len(manifest.files),
        "bytes": sum(file.size for file in manifest.files),
        "tags": sorted(tags),
    }


@app.command()
def show(ref: Ref, store: Store = "", as_json: Json = False) -> None:
    """Show one artifact's manifest: files, metrics, notes, inputs, code and packages."""
    manifest = opened.artifacts(store).show(ref).manifest
    if as_json:
        typer.echo(manifest.model_dump_json(indent=1))
        return
    typer.echo(
        f"{manifest.stage}/{manifest.digest}\n"
        f"recipe {manifest.recipe}, made {manifest.created_at} in {duration(manifest.seconds)}, "
        f"code {manifest.code_digest}\n"
        f"git commit {manifest.git_commit or 'unknown'}, run {manifest.run or 'direct'}"
    )
    parts: dict[str, list[tuple[str, ...]]] = {
        "inputs": list(manifest.inputs.items()),
        "figures": [(name, number(value)) for name, value in manifest.metrics.items()],
        "kernels": list(manifest.kernels.items()),
        "files": [(file.name, size(file.size), file.sha256[:16]) for file in manifest.files],
        "notes": [(note,) for note in manifest.notes],
    }
    for title, rows in parts.items():
        if rows:
            typer.echo(f"\n{title}")
            print_table(rows, indent=2)


@app.command()
def lineage(ref: Ref, store: Store = "", as_json: Json = False) -> None:
    """Show what an artifact was made from and what was made from it (mermaid)."""
    from kontext.store.artifacts.lineage import lineage as lineage_of

    found = lineage_of(_opened(store, ref), ref)
    nodes = [(manifest.stage, manifest.digest) for manifest in found.nodes]
    data = {"root": found.root, "nodes": nodes, "edges": found.edges}
    print_result(data, found.mermaid, as_json)


@app.command()
def verify(
    ref: Annotated[str, typer.Argument(help="One artifact; all without it.")] = "",
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Hash every stored file again and compare it with its manifest. Fails on any difference."""
    result = _opened(store, ref).verify(ref or None)
    if as_json:
        problems = [vars(problem) for problem in result.problems]
        data = {"artifacts": result.artifacts, "files": result.files, "problems": problems}
        print_json(data)
    else:
        for problem in result.problems:
            say(f"{problem.ref} {problem.file}: {problem.problem}")
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
    found = opened.artifacts(store)
    if delete:
        found.untag(name)
        typer.echo(f"removed {name}")
        return
    if not ref:
        raise typer.BadParameter("give the artifact that the tag points at")
    stage, digest = found.resolve(ref)
    found.tag(name, stage, digest)
    typer.echo(f"{name} → {stage}/{digest}")


@app.command()
def gc(
    delete: Delete = False,
    grace: Grace = "7d",  # type: ignore[assignment] # typer parses it
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Remove artifacts that no tag, dataset version or younger artifact needs, and their blobs."""
    from kontext.store.artifacts.garbage import collect_garbage

    keep, artifacts = opened.catalog(store).referenced(), opened.artifacts(store)
    result = collect_garbage(artifacts, dry_run=not delete, grace=grace, keep=keep)
    word = "removed" if delete else "would remove (give --delete)"
    line = (
        f"{word}: {len(result.artifacts)} artifacts, {len(result.objects)} objects, "
        f"{size(result.bytes)}, {result.unfinished} unfinished writes"
    )
    text = "\n".join([*map("/".join, result.artifacts), line])
    print_result({**vars(result), "deleted": delete}, text, as_json)


@app.command()
def diff(before: Ref, after: Ref, store: Store = "", as_json: Json = False) -> None:
    """Show what differs between two artifacts: recipe, data, code and metrics."""
    from kontext.store.artifacts.diff import diff as compare

    found = compare(opened.artifacts(store), before, after)
    parts = {name: getattr(found, name) for name in ("recipe", "data", "code", "metrics")}
    if as_json:
        data = {name: [vars(change) for change in changes] for name, changes in parts.items()}
        print_json({"before": found.before, "after": found.after, **data})
        return
    typer.echo(f"{'/'.join(found.before)} → {'/'.join(found.after)}")
    for name, changes in parts.items():
        typer.echo(f"\n{name}" + ("" if changes else ": equal"))
        rows = [(c.name, _short(c.before), "→", _short(c.after)) for c in changes]
        print_table(rows, indent=2)


def _short(value: Any) -> str:
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 48 else text[:45] + "..."


@app.command()
def export(
    ref: Ref,
    output: Annotated[str, typer.Argument(help="Folder, NAME.tar, or any store's URL.")],
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Copy an artifact with everything it was made from into a folder, a tar file or a store."""
    from kontext.engine.remake import import_artifacts

    with opened.exported_to(output, store) as target:
        found = import_artifacts(_opened(store, ref), target, ref)
    _print_transfer(found, f"exported to {output}", as_json)


@app.command("import")
def import_(
    source: Annotated[str, typer.Argument(help="Folder, tar file or store that was exported.")],
    ref: Annotated[str, typer.Argument(help="Only this artifact and what it needs.")] = "",
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Copy artifacts from an export into the store, then hash every one again.

    Every picture in them is matched with the hash lists of the home before anything is copied.
    """
    from kontext.data.outside import check_pictures
    from kontext.engine.remake import import_artifacts
    from kontext.safety.edit_log import EditLog
    from kontext.safety.proof import whole_gate
    from kontext.store.artifacts.archive import open_exported
    from schemas.sections.data import IngestConfig

    target, home = opened.artifacts(store, write=True), opened.home()
    gate = whole_gate(IngestConfig(), home)
    for note in gate.notes:
        say(note.removeprefix("allow_unlisted: "))

    def check(artifact: Artifact) -> None:
        check_pictures(artifact, gate, EditLog(target.objects, home))

    with open_exported(source, opened.scratch()) as exported:
        found = import_artifacts(exported, target, ref or None, home=home, check=check)
    for stage, digest in found.artifacts:
        if problems := target.verify(f"{stage}/{digest}").problems:
            worst = problems[0]
            raise ArtifactError(f"after the import {worst.ref} {worst.file}: {worst.problem}")
    _print_transfer(found, f"imported from {source}, every digest intact", as_json)


def _print_transfer(found: Transfer, what: str, as_json: bool) -> None:
    refs = ["/".join(ref) for ref in found.artifacts]
    line = (
        f"{what}: {len(refs)} artifacts ({found.present} were there), "
        f"{found.blobs} files, {size(found.bytes)}"
    )
    print_result({**vars(found), "artifacts": refs}, "\n".join([*refs, line]), as_json)


@app.command()
def rebuild(ref: Ref, store: Store = "", as_json: Json = False) -> None:
    """Make an artifact again from its manifest, outside the store, and compare every byte."""
    from kontext.engine.remake import remake
    from kontext.stages import STAGES

    found = remake(_opened(store, ref), ref, opened.home(), STAGES)
    if as_json:
        print_json(vars(found))
    why = " (the code has changed since)" if found.code_changed else ""
    if found.different:
        names = ", ".join(found.different[:5])
        count = len(found.different)
        raise ArtifactError(f"{found.ref}: {count} of {found.files} files differ{why}: {names}")
    if not as_json:
        typer.echo(f"{found.ref}: {found.files} files made again, all bit-identical{why}")
