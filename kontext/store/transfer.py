"""Copying artifacts between stores, digests intact. An exported folder is itself a store.

    <target>/runs/<stage>/<digest>/manifest.json    of the artifact and everything it was made from
    <target>/blobs/sha256/…                         their files
    <target>/tags/…                                 tags that point at one of them

So `kontext artifacts verify --store FOLDER` works on an export, and so does every other command.
"""

from __future__ import annotations

import lzma
import tarfile
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from kontext.errors import ArtifactError
from kontext.store.artifacts import ArtifactStore, blob_key, run_prefix
from kontext.store.lineage import Ref, ancestors
from kontext.store.objects import open_store
from schemas.manifest import Manifest

_LOOKS_BACK = 256 << 20  # bytes; compressing takes seven times as much memory, reading as much
_LAYOUT = ("blobs", "runs", "tags", "ledger", "models", "export.json")  # of an archive


@dataclass(frozen=True)
class Transfer:
    """What was copied."""

    artifacts: tuple[Ref, ...]  # now in the target, oldest first
    present: int  # of them, how many were there before
    blobs: int  # copied
    bytes: int


def copy_artifacts(
    source: ArtifactStore,
    target: ArtifactStore,
    ref: str | None = None,
    *,
    files_of: Collection[str] | None = None,
    before_manifest: Callable[[Manifest], None] | None = None,
) -> Transfer:
    """Copy an artifact (or all) with everything it was made from; every blob is hashed on the way.

    What the target has already is kept. Manifests are copied byte for byte, inputs before what was
    made from them and after their files, so that a copy cut off anywhere is a smaller store, never
    a broken one. `before_manifest` is called before an artifact comes to exist. `files_of` are the
    stages whose files are copied (all by default); of others the target has the manifests alone.

    Raises ArtifactError for an unknown reference, a missing input or damaged bytes.
    """
    manifests = {(m.stage, m.digest): m for m in source.list()}
    wanted = set(manifests) if ref is None else ancestors(manifests, {source.resolve(ref)})
    ordered = _inputs_first({key: manifests[key] for key in manifests if key in wanted})
    done: set[str] = set()
    present = size = blobs = 0
    for key in ordered:
        manifest = manifests[key]
        if target.exists(*key):
            present += 1
            continue
        wants_files = files_of is None or manifest.stage in files_of
        for file in manifest.files if wants_files else ():
            if file.sha256 not in done and not _has(target, file.sha256, file.size):
                target.objects.put_file(blob_key(file.sha256), source.blob_path(file))
                blobs, size = blobs + 1, size + file.size
            done.add(file.sha256)
        if before_manifest is not None:
            before_manifest(manifest)
        name = run_prefix(*key) + "manifest.json"
        target.objects.put(name, source.objects.get(name), if_absent=True)
    for tag, pointed in source.tags().items():
        if pointed in wanted and target.tagged(tag) is None:
            target.tag(tag, *pointed)
    return Transfer(ordered, present, blobs, size)


def _has(target: ArtifactStore, sha256: str, size: int) -> bool:
    found = target.objects.info(blob_key(sha256))
    return found is not None and found.size == size


def _inputs_first(manifests: dict[Ref, Manifest]) -> tuple[Ref, ...]:
    ordered: list[Ref] = []
    seen: set[Ref] = set()

    def visit(ref: Ref) -> None:
        if ref in seen:
            return
        seen.add(ref)
        for source in sorted(manifests[ref].inputs.items()):
            if source not in manifests:
                stage, digest = source
                raise ArtifactError(f"{ref[0]}/{ref[1]} was made from {stage}/{digest}: not there")
            visit(source)
        ordered.append(ref)

    for ref in manifests:
        visit(ref)
    return tuple(ordered)


def is_archive(name: str) -> bool:
    """Whether a source or target means a tar file rather than a store."""
    return name.endswith((".tar", ".tar.xz"))


def write_archive(folder: Path, archive: Path) -> None:
    """Put an exported folder into one file; the same export gives the same bytes.

    A name that ends in .xz is compressed. Shards hold an image once for every pair that shows it,
    and the compressor looks far enough back to store it once.

    Raises ArtifactError.
    """
    partial = archive.with_name(archive.name + ".partial")
    try:
        with (
            _opened_file(partial, compressed=archive.name.endswith(".xz")) as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            files = (path for path in folder.rglob("*") if path.is_file())
            for path in sorted(files):
                name = path.relative_to(folder).as_posix()
                if not name.startswith("."):  # a local store's unfinished writes
                    tar.add(path, name, filter=_anonymous)
        partial.replace(archive)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ArtifactError(f"cannot write {archive}: {error.strerror}") from error


def _opened_file(path: Path, compressed: bool) -> IO[bytes]:
    if not compressed:
        return path.open("wb")
    finder = {"preset": 6, "mf": lzma.MF_HC4, "dict_size": _LOOKS_BACK}
    return lzma.open(path, "wb", filters=[{"id": lzma.FILTER_LZMA2, **finder}])


def _anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mtime = 0
    info.mode = 0o644
    return info


@contextmanager
def opened(source: str, scratch: Path) -> Iterator[ArtifactStore]:
    """The store that a folder, URL or tar file means; a tar is unpacked for the time being.

    Raises ArtifactError for a tar file that cannot be read or has files outside the layout.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as temporary:
        if not is_archive(source):
            yield ArtifactStore(open_store(source), Path(temporary))
            return
        folder = Path(temporary, "store")
        try:
            with tarfile.open(source) as tar:
                for member in tar.getmembers():
                    if member.name.split("/")[0] not in _LAYOUT:
                        raise ArtifactError(f"{source} is not an export: it holds '{member.name}'")
                tar.extractall(folder, filter="data")
        except (OSError, tarfile.TarError) as error:
            raise ArtifactError(f"cannot read {source}: {error}") from error
        yield ArtifactStore(open_store(f"file://{folder}"), Path(temporary, "cache"))
