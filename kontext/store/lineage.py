"""Lineage and garbage collection over an ArtifactStore: what came from what, and what may go."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from kontext.store.artifacts import ArtifactStore, blob_key, run_prefix
from schemas.manifest import Manifest

Ref = tuple[str, str]  # stage, digest


@dataclass(frozen=True)
class Lineage:
    """Everything above and below one artifact."""

    root: Ref
    nodes: tuple[Manifest, ...]  # ancestors, the artifact, descendants; oldest first
    edges: tuple[tuple[Ref, Ref], ...]  # (input, output)

    @property
    def mermaid(self) -> str:
        """A mermaid flowchart; labels are quoted because an unquoted @ breaks its parser."""
        ids = {(m.stage, m.digest): f"n{i}" for i, m in enumerate(self.nodes)}
        lines = ["flowchart TD"]
        for manifest in self.nodes:
            ref = (manifest.stage, manifest.digest)
            lines.append(f'  {ids[ref]}["{manifest.stage}<br/>{manifest.digest}"]')
        lines += [f"  {ids[a]} --> {ids[b]}" for a, b in self.edges]
        lines.append(f"  style {ids[self.root]} stroke-width:3px")
        return "\n".join(lines) + "\n"


def lineage(store: ArtifactStore, ref: str) -> Lineage:
    """Ancestors and descendants of an artifact. Raises ArtifactError for an unknown reference."""
    root = store.resolve(ref)
    manifests = {(m.stage, m.digest): m for m in store.list()}
    found = ancestors(manifests, {root})
    below, grown = {root}, {root}
    while grown:
        grown = {
            key
            for key, m in manifests.items()
            if key not in below and grown & set(m.inputs.items())
        }
        below |= grown
    found |= below
    nodes = tuple(m for key, m in manifests.items() if key in found)
    edges = tuple(
        (source, (m.stage, m.digest))
        for m in nodes
        for source in sorted(m.inputs.items())
        if source in found and source in manifests
    )
    return Lineage(root, nodes, edges)


def ancestors(manifests: dict[Ref, Manifest], refs: set[Ref]) -> set[Ref]:
    """`refs` and everything they were made from."""
    found: set[Ref] = set()
    todo = [ref for ref in refs if ref in manifests]
    while todo:
        ref = todo.pop()
        if ref not in found:
            found.add(ref)
            todo += [source for source in manifests[ref].inputs.items() if source in manifests]
    return found


@dataclass(frozen=True)
class Collection:
    """What garbage collection removed, or would remove."""

    artifacts: tuple[Ref, ...]
    objects: tuple[str, ...]  # blobs and abandoned work objects
    bytes: int
    unfinished: int = 0  # writes that were cut off: temporary files, multipart uploads


def collect_garbage(
    store: ArtifactStore,
    *,
    dry_run: bool = True,
    grace: timedelta = timedelta(days=7),
    keep: Iterable[Ref] = (),
) -> Collection:
    """Remove artifacts that nothing needs, blobs no artifact needs, and abandoned work objects.

    An artifact is needed when a tag, `keep` (what the catalog's dataset versions were made from)
    or an artifact younger than `grace` is it or was made from it. Nothing younger than `grace` is
    touched, so `grace` must exceed the longest stage.
    """
    limit = datetime.now(UTC) - grace
    manifests = {(m.stage, m.digest): m for m in store.list()}
    young = {r for r, m in manifests.items() if datetime.fromisoformat(m.created_at) >= limit}
    needed = ancestors(manifests, {*store.tags().values(), *keep, *young})
    dead = [ref for ref in manifests if ref not in needed]
    kept = [m for ref, m in manifests.items() if ref not in set(dead)]
    used = {blob_key(file.sha256) for m in kept for file in m.files}
    work = [i for i in store.objects.list_info("runs/") if "/work/" in i.key]
    blobs = [i for i in store.objects.list_info("blobs/") if i.key not in used]
    old = [info for info in work + blobs if info.modified < limit]
    if not dry_run:
        for stage, digest in dead:  # manifests first: what is half removed does not exist
            store.objects.delete(run_prefix(stage, digest) + "manifest.json")
        for info in old:
            store.objects.delete(info.key)
    unfinished = store.objects.clear_unfinished(limit, dry_run=dry_run)
    size = sum(i.size for i in old)
    return Collection(tuple(dead), tuple(i.key for i in old), size, unfinished)
