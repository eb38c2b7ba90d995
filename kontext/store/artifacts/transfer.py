"""Copying artifacts between stores, digests intact. An exported folder is itself a store.

    <target>/runs/<stage>/<digest>/manifest.json    of the artifact and everything it was made from
    <target>/blobs/sha256/…                         their files
    <target>/tags/…                                 tags that point at one of them
    <target>/datasets/NAME/vN/shards/…              names of dataset versions' shards, of the blobs

So `kontext artifacts verify --store FOLDER` works on an export, and so does every other command.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from graphlib import TopologicalSorter

from kontext.errors import ArtifactError
from kontext.store.artifacts.artifact_store import ArtifactStore, blob_key, run_prefix
from kontext.store.artifacts.lineage import Ref, ancestors
from kontext.store.artifacts.named_shards import copy_names
from schemas.manifest import Manifest


@dataclass(frozen=True)
class Transfer:
    """What was copied."""

    artifacts: tuple[Ref, ...]  # now in the target, inputs first
    present: int  # of them, how many were there before
    blobs: int  # copied
    bytes: int


def copy_artifacts(
    source: ArtifactStore,
    target: ArtifactStore,
    ref: str | None = None,
    *,
    files_of: Collection[str] | None = None,
    before_any: Callable[[Manifest], None] | None = None,
    before_manifest: Callable[[Manifest], None] | None = None,
) -> Transfer:
    """Copy an artifact (or all) with everything it was made from; every blob is hashed on the way.

    What the target has already is kept. Manifests are copied byte for byte, inputs before what was
    made from them and after their files, so that a copy cut off anywhere is a smaller store, never
    a broken one.

    Args:
        files_of: the stages whose files are copied (all by default); of others the target has the
            manifests alone.
        before_any: called with every artifact that is to be copied, before anything is: what it
            raises leaves the target as it was.
        before_manifest: called before an artifact comes to exist.

    Raises ArtifactError for an unknown reference, a missing input or damaged bytes.
    """
    manifests = {(m.stage, m.digest): m for m in source.list()}
    wanted = set(manifests) if ref is None else ancestors(manifests, {source.resolve(ref)})
    ordered = _inputs_first({key: manifests[key] for key in manifests if key in wanted})
    if before_any is not None:
        for key in ordered:
            if not target.exists(*key):
                before_any(manifests[key])
    done: set[str] = set()
    present = size = blobs = 0
    for key in ordered:
        manifest = manifests[key]
        if target.exists(*key):
            present += 1
            continue
        wants_files = files_of is None or manifest.stage in files_of
        for file in manifest.files if wants_files else ():
            blob = blob_key(file.sha256)
            found = None if file.sha256 in done else target.objects.info(blob)
            if file.sha256 not in done and (found is None or found.size != file.size):
                target.objects.put_file(blob, source.blob_path(file))
                blobs, size = blobs + 1, size + file.size
            done.add(file.sha256)
        if before_manifest is not None:
            before_manifest(manifest)
        name = run_prefix(*key) + "manifest.json"
        target.objects.put(name, source.objects.get(name), if_absent=True)
    for tag, pointed in source.tags().items():
        if pointed in wanted and target.tagged(tag) is None:
            target.tag(tag, *pointed)
    copy_names(source.objects, target.objects)
    return Transfer(ordered, present, blobs, size)


def _inputs_first(manifests: dict[Ref, Manifest]) -> tuple[Ref, ...]:
    """Every artifact after those it was made from."""
    inputs = {ref: sorted(manifest.inputs.items()) for ref, manifest in manifests.items()}
    for ref, sources in inputs.items():
        for source in sources:
            if source not in manifests:
                made, lost = "/".join(ref), "/".join(source)
                raise ArtifactError(f"{made} was made from {lost}: not there")
    return tuple(TopologicalSorter(inputs).static_order())
