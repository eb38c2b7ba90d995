"""Deleting what a sweep took: every artifact that holds it, with its blobs, names and snapshots.

The pictures that were fetched from the web go as well, all of them: the next run fetches anew what
it wants.

Weights stay, for they hold no picture: what was trained on one is named, and its owner decides.
"""

import shutil
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from kontext.data.sweep.consumers import Consumer
from kontext.data.web.cache import FOLDER as FETCHED
from kontext.store.artifacts.artifact_store import ArtifactStore, blob_key, run_prefix
from kontext.store.artifacts.lineage import Ref
from kontext.store.artifacts.named_shards import unused, version_prefix
from kontext.store.catalog.catalog import Catalog
from kontext.store.catalog.versions import DatasetVersion

CHANGES_RESULTS = False  # removes what was made; a stage never asks it

# what nobody but the operator can reach
ELSEWHERE = (
    "copies outside of this store: exports, packs, other buckets' versions, backups",
    "pages and sheets that were written: reports, galleries, pictures in the UI's database",
    "what captioning models said of it: cache/chat-replies.sqlite in the home",
    "weights that were trained on it: they are named above, and stay",
)


@dataclass(frozen=True)
class Purged:
    """What was deleted, and what still has to be."""

    artifacts: tuple[Ref, ...]
    blobs: int
    bytes: int
    versions: tuple[str, ...]  # of datasets, which cannot be asked for any more
    elsewhere: tuple[str, ...] = ELSEWHERE


def purge(store: ArtifactStore, catalog: Catalog, home: Path, found: Iterable[Consumer]) -> Purged:
    """Delete the artifacts of `found` that are no checkpoints, and all that only they needed.

    Snapshots of the catalog that show their datasets' versions expire with all that lie before
    the newest version of each: `--at` an earlier one is no answer any more.
    """
    gone = {one.ref for one in found if not one.is_checkpoint}
    versions = _versions(catalog, gone)
    manifests = {(m.stage, m.digest): m for m in store.list()}
    needed = {file.sha256 for ref, m in manifests.items() if ref not in gone for file in m.files}
    blobs = {
        file.sha256: file.size
        for ref in gone & manifests.keys()
        for file in manifests[ref].files
        if file.sha256 not in needed
    }
    for name, ref in store.tags().items():
        if ref in gone:
            store.untag(name)
    for stage, digest in sorted(gone):  # manifests first: what is half removed does not exist
        store.objects.delete(run_prefix(stage, digest) + "manifest.json")
        _delete(store, store.objects.list(run_prefix(stage, digest)))
        shutil.rmtree(home / "scratch" / stage / digest, ignore_errors=True)
    for version in versions:
        _delete(store, store.objects.list(version_prefix(version.name, version.version)))
    _delete(store, map(blob_key, blobs))
    _delete(store, [info.key for info in unused(store.objects, set(map(blob_key, needed)))])
    for sha256 in blobs:
        (store.cache_dir / sha256[:2] / sha256).unlink(missing_ok=True)
    shutil.rmtree(home / FETCHED, ignore_errors=True)
    catalog.forget(versions)
    names = tuple(map(str, versions))
    return Purged(tuple(sorted(gone)), len(blobs), sum(blobs.values()), names)


def _versions(catalog: Catalog, gone: Collection[Ref]) -> list[DatasetVersion]:
    """Versions of datasets that were made from one of these."""
    return [version for version in catalog.datasets() if set(catalog.inputs(version)) & set(gone)]


def _delete(store: ArtifactStore, keys: Iterable[str]) -> None:
    for key in keys:
        store.objects.delete(key)
