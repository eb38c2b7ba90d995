"""Garbage collection over an ArtifactStore: what nothing needs any more is removed."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from kontext.store.artifacts.artifact_store import (
    ArtifactStore,
    blob_key,
    is_work,
    manifest_key,
    own_key,
)
from kontext.store.artifacts.lineage import Ref, ancestors
from kontext.store.artifacts.named_shards import unused


@dataclass(frozen=True)
class Collection:
    """What garbage collection removed, or would remove."""

    artifacts: tuple[Ref, ...]
    objects: tuple[str, ...]  # blobs, named shards and abandoned work objects
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
    used = {blob_key(file.sha256) for ref in needed for file in manifests[ref].files}
    work = [i for i in store.objects.list_info("runs/") if is_work(i.key)]
    blobs = [i for i in store.objects.list_info("blobs/") if i.key not in used]
    names = unused(store.objects, used)
    old = [info for info in work + blobs + names if info.modified < limit]
    if not dry_run:
        for stage, digest in dead:  # manifests first: what is half removed does not exist
            store.objects.delete(manifest_key(stage, digest))
            store.objects.delete(own_key(stage, digest))
        for info in old:
            store.objects.delete(info.key)
    unfinished = store.objects.clear_unfinished(limit, dry_run=dry_run)
    size = sum(i.size for i in old)
    return Collection(tuple(dead), tuple(i.key for i in old), size, unfinished)
