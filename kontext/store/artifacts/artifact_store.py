"""Artifacts: versioned stage outputs. Blobs by content, a manifest written last, movable tags.

blobs/sha256/aa/<sha256>             bytes of every file, once
runs/<stage>/<digest>/manifest.json  exists = the stage is done; never rewritten
tags/<name>.json                     e.g. dataset@demo, latest/mine
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from kontext.errors import ArtifactError, ObjectExists, ObjectNotFound
from kontext.store.objects import ObjectStore, open_store, sha256_file
from kontext.store.parquet import parquet_bytes, read_parquet
from schemas.manifest import Manifest, ManifestFile

_WORK = "work"
_KINDS = ("model", "import", "dataset")  # what stands before the @ of a name
_FRESH = timedelta(hours=1)  # below any garbage collector's grace


def blob_key(sha256: str) -> str:
    """Where a blob lies in the store."""
    return f"blobs/sha256/{sha256[:2]}/{sha256}"


def run_prefix(stage: str, digest: str) -> str:
    """Folder of one artifact's manifest and work objects, with a closing slash."""
    return f"runs/{stage}/{digest}/"


def work_prefix(stage: str, digest: str) -> str:
    """Folder of what a running stage keeps to go on after a kill; cleared when it is done."""
    return run_prefix(stage, digest) + _WORK


def manifest_key(stage: str, digest: str) -> str:
    """Where an artifact's manifest lies in the store."""
    return run_prefix(stage, digest) + "manifest.json"


def own_key(stage: str, digest: str) -> str:
    """Where the home that made an artifact says so (`kontext.safety.own_work`)."""
    return run_prefix(stage, digest) + "own.json"


def manifest_bytes(manifest: Manifest) -> bytes:
    """A manifest as it is stored."""
    return manifest.model_dump_json(indent=1).encode()


def is_work(key: str) -> bool:
    """Whether an object is part of a run's unfinished work."""
    return key.split("/")[3:4] == [_WORK]


@dataclass(frozen=True)
class StoredFile:
    """A file of an artifact as chunk work is handed it: opened on the machine that needs it."""

    store: str  # URL
    cache: Path  # folder for what is downloaded
    file: ManifestFile
    folder: Path | None  # the file itself, where the store is a folder

    def path(self) -> Path:
        """A local path, as `Artifact.path`. Raises ArtifactError."""
        key = self.store, self.cache
        if key not in _OPENED:
            _OPENED[key] = ArtifactStore(open_store(self.store), self.cache)
        return _OPENED[key].blob_path(self.file)


class Artifact:
    """A finished stage output."""

    def __init__(self, store: ArtifactStore, manifest: Manifest) -> None:
        self._store = store
        self.manifest = manifest
        self.stage = manifest.stage
        self.digest = manifest.digest
        self._files = {file.name: file for file in manifest.files}

    def __repr__(self) -> str:
        return f"Artifact({self.stage}/{self.digest})"

    def names(self, prefix: str = "") -> list[str]:
        """Sorted file names that start with `prefix`."""
        return sorted(name for name in self._files if name.startswith(prefix))

    def path(self, name: str) -> Path:
        """A local, read-only path with the file's bytes, digest-checked once per process.

        Raises ArtifactError for an unknown name or damaged bytes.
        """
        self._known(name)
        return self._store.blob_path(self._files[name])

    def stored(self, name: str) -> StoredFile:
        """A file for chunk work. Raises ArtifactError for an unknown name."""
        self._known(name)
        objects, cache, file = self._store.objects, self._store.cache_dir, self._files[name]
        _OPENED.setdefault((objects.url, cache), self._store)  # it knows what it has checked
        return StoredFile(objects.url, cache, file, objects.local_path(blob_key(file.sha256)))

    def place(self) -> Path | None:
        """The manifest's own file, where the store is a folder."""
        return self._store.objects.local_path(f"{run_prefix(self.stage, self.digest)}manifest.json")

    def _known(self, name: str) -> None:
        if name not in self._files:
            known = ", ".join(self.names()[:8])
            raise ArtifactError(f"{self.stage}/{self.digest} has no file '{name}' (has {known})")

    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """One Parquet file, or all of `name/` concatenated in name order; or some columns."""
        if name in self._files:
            return read_parquet(self.path(name), columns)
        names = [n for n in self.names(name.rstrip("/") + "/") if n.endswith(".parquet")]
        if not names:
            raise ArtifactError(f"{self.stage}/{self.digest} has no table '{name}'")
        return pa.concat_tables(read_parquet(self.path(n), columns) for n in names)

    def json(self, name: str) -> Any:
        """A parsed JSON file."""
        return json.loads(self.path(name).read_bytes())


class ArtifactWriter:
    """The artifact being written. `commit` makes it exist."""

    def __init__(self, store: ArtifactStore, stage: str, digest: str) -> None:
        self._store = store
        self.stage = stage
        self.digest = digest
        self.files: dict[str, ManifestFile] = {}
        self.metrics: dict[str, float | int | str | bool | None] = {}
        self.notes: list[str] = []
        self.kernels: dict[str, str] = {}

    def add_file(self, name: str, path: Path) -> None:
        """Store a local file under `name`."""
        file = ManifestFile(name=name, sha256=sha256_file(path), size=path.stat().st_size)
        self._add(file, lambda key: self._store.objects.put_file(key, path))

    def add_bytes(self, name: str, data: bytes) -> None:
        """Store bytes under `name`."""
        sha256 = hashlib.sha256(data).hexdigest()
        file = ManifestFile(name=name, sha256=sha256, size=len(data))
        self._add(file, lambda key: self._store.objects.put(key, data))

    def add_table(self, name: str, table: pa.Table) -> None:
        """Store a table as deterministic zstd Parquet under `name`."""
        self.add_bytes(name, parquet_bytes(table))

    def add_json(self, name: str, value: Any) -> None:
        """Store JSON with sorted keys under `name`."""
        text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
        self.add_bytes(name, text.encode() + b"\n")

    def metric(self, name: str, value: float | int | str | bool | None) -> None:
        """Record a number worth comparing between runs."""
        self.metrics[name] = value

    def note(self, text: str) -> None:
        """Record a fallback or a limit, once; the report shows it."""
        if text not in self.notes:
            self.notes.append(text)

    def kernel(self, role: str, name: str) -> None:
        """Record which kernel or backend served a role, e.g. attention=sdpa."""
        self.kernels[role] = name

    def commit(self, manifest: Manifest) -> Manifest:
        """Write the manifest, last. Where somebody else committed first, theirs is returned."""
        key = manifest_key(manifest.stage, manifest.digest)
        try:
            self._store.objects.put(key, manifest_bytes(manifest), if_absent=True)
            return manifest
        except ObjectExists:
            return self._store.open(manifest.stage, manifest.digest).manifest

    def _add(self, file: ManifestFile, put: Any) -> None:
        assert file.name not in self.files, f"file '{file.name}' was already written"
        key = blob_key(file.sha256)
        found = self._store.objects.info(key)
        # an old equal blob is put again, so that garbage collection sees it is in use
        if not found or found.size != file.size or datetime.now(UTC) - found.modified > _FRESH:
            put(key)
        self.files[file.name] = file


@dataclass(frozen=True)
class Problem:
    """A file whose bytes are not what its manifest says."""

    ref: str  # stage/digest
    file: str
    problem: str


@dataclass(frozen=True)
class Verification:
    """Result of re-hashing artifacts."""

    artifacts: int
    files: int
    bytes: int
    problems: tuple[Problem, ...]


class ArtifactStore:
    """Artifacts of one object store. `cache_dir` keeps downloaded blobs of remote stores."""

    def __init__(self, objects: ObjectStore, cache_dir: Path) -> None:
        self.objects = objects
        self.cache_dir = cache_dir
        self._checked: set[tuple[str, int, int]] = set()
        self._lock = threading.Lock()

    def writer(self, stage: str, digest: str) -> ArtifactWriter:
        """Start an artifact."""
        return ArtifactWriter(self, stage, digest)

    def manifest(self, stage: str, digest: str) -> Manifest | None:
        """The manifest of a finished artifact, or None."""
        try:
            data = self.objects.get(run_prefix(stage, digest) + "manifest.json")
        except ObjectNotFound:
            return None
        return Manifest.model_validate_json(data)

    def exists(self, stage: str, digest: str) -> bool:
        """Whether the stage is done."""
        return self.objects.exists(run_prefix(stage, digest) + "manifest.json")

    def open(self, stage: str, digest: str) -> Artifact:
        """A finished artifact. Raises ArtifactError."""
        manifest = self.manifest(stage, digest)
        if manifest is None:
            raise ArtifactError(f"no artifact {stage}/{digest} in {self.objects.url}")
        return Artifact(self, manifest)

    def list(self, stage: str | None = None) -> list[Manifest]:
        """Manifests of all finished artifacts (of one stage), oldest first."""
        manifests = (self.open(*ref).manifest for ref in self.refs(stage))
        return sorted(manifests, key=lambda m: (m.created_at, m.stage, m.digest))

    def refs(self, stage: str | None = None) -> tuple[tuple[str, str], ...]:
        """(stage, digest) of all finished artifacts, sorted."""
        keys = self.objects.list(f"runs/{stage}/" if stage else "runs/")
        split = (key.split("/") for key in keys)
        return tuple((k[1], k[2]) for k in split if len(k) == 4 and k[3] == "manifest.json")

    def show(self, ref: str) -> Artifact:
        """The artifact a reference means (see `resolve`)."""
        return self.open(*self.resolve(ref))

    def resolve(self, ref: str) -> tuple[str, str]:
        """(stage, digest) for `stage/digest`, a tag, a stage name (its latest) or a digest prefix.

        A model's or dataset's name is enough: `bar` for model@bar, and model@bar for import@bar.

        Raises ArtifactError when nothing or more than one artifact matches.
        """
        tagged = self.tagged(ref) or self.tagged(f"latest/{ref}") or self._named(ref)
        if tagged is not None:
            return tagged
        stage, slash, digest = ref.rpartition("/")
        found = [
            (s, d)
            for s, d in self.refs(stage if slash else None)
            if (not slash or s == stage) and d.startswith(digest)
        ]
        if len(found) == 1 and digest:
            return found[0]
        if not found or not digest:
            tags = ", ".join(sorted(self.tags())) or "none"
            raise ArtifactError(f"no artifact, tag or stage '{ref}' (tags: {tags})")
        matches = ", ".join(f"{s}/{d}" for s, d in found[:6])
        raise ArtifactError(f"'{ref}' is ambiguous: {matches}")

    def _named(self, ref: str) -> tuple[str, str] | None:
        kind, at, name = ref.rpartition("@")
        kinds = ("import",) if kind == "model" else () if at else _KINDS
        tags = [f"{each}@{name}" for each in kinds if self.tagged(f"{each}@{name}")]
        if len({self.tagged(tag) for tag in tags}) > 1:
            raise ArtifactError(f"'{ref}' is ambiguous: {', '.join(tags)}")
        return self.tagged(tags[0]) if tags else None

    def tag(self, name: str, stage: str, digest: str) -> None:
        """Point a tag at a finished artifact."""
        if not self.exists(stage, digest):
            raise ArtifactError(f"cannot tag {stage}/{digest}: no such artifact")
        key = f"tags/{name}.json"
        data = json.dumps({"stage": stage, "digest": digest}, sort_keys=True).encode()
        for _ in range(20):
            try:
                current, etag = self.objects.get_with_etag(key)
            except ObjectNotFound:
                current, etag = b"", None
            if current == data:
                return
            try:
                self.objects.replace_if(key, data, etag)
                return
            except ObjectExists:
                continue
        raise ArtifactError(f"tag '{name}' is being moved by others all the time")

    def untag(self, name: str) -> None:
        """Remove a tag. Raises ArtifactError if there is none."""
        if not self.objects.exists(f"tags/{name}.json"):
            raise ArtifactError(f"no tag '{name}'")
        self.objects.delete(f"tags/{name}.json")

    def tags(self) -> dict[str, tuple[str, str]]:
        """All tags and what they point at."""
        names = [key[len("tags/") : -len(".json")] for key in self.objects.list("tags/")]
        found = {name: self.tagged(name) for name in names}
        return {name: target for name, target in found.items() if target is not None}

    def tagged(self, name: str) -> tuple[str, str] | None:
        """What a tag points at, or None."""
        if not name or any(part in ("", ".", "..") for part in name.split("/")):
            return None
        try:
            target = json.loads(self.objects.get(f"tags/{name}.json"))
        except ObjectNotFound:
            return None
        return target["stage"], target["digest"]

    def verify(self, ref: str | None = None) -> Verification:
        """Re-hash every file of one artifact, or of all, from the store itself."""
        manifests = self.list() if ref is None else [self.show(ref).manifest]
        files = [(f"{m.stage}/{m.digest}", file) for m in manifests for file in m.files]
        blobs = {file.sha256: file for _, file in files}
        wrong = {sha256: self._check_blob(file) for sha256, file in blobs.items()}
        found = (Problem(made, f.name, wrong[f.sha256]) for made, f in files if wrong[f.sha256])
        size = sum(file.size for _, file in files)
        return Verification(len(manifests), len(files), size, tuple(found))

    def blob_path(self, file: ManifestFile) -> Path:
        """A local path with the blob's bytes, hashed once per process. Raises ArtifactError."""
        local = self.objects.local_path(blob_key(file.sha256))
        if local is not None:
            self._require(local, file)
            return local
        cached = self.cache_dir / file.sha256[:2] / file.sha256
        with self._lock:
            if not cached.is_file() or cached.stat().st_size != file.size:
                try:
                    self.objects.download(blob_key(file.sha256), cached)
                except ObjectNotFound as error:
                    raise ArtifactError(f"the bytes of '{file.name}' are gone: {error}") from error
            try:
                self._require(cached, file)
            except ArtifactError:
                cached.unlink(missing_ok=True)
                raise
        return cached

    def _require(self, path: Path, file: ManifestFile) -> None:
        try:
            stat = path.stat()
        except FileNotFoundError as error:
            gone = f"the bytes of '{file.name}' are gone: no {path}"
            raise ArtifactError(gone) from error
        known = (file.sha256, stat.st_mtime_ns, stat.st_size)
        if known in self._checked:
            return
        if stat.st_size != file.size or sha256_file(path) != file.sha256:
            raise ArtifactError(f"'{file.name}' is damaged: {path} does not match its manifest")
        self._checked.add(known)

    def _check_blob(self, file: ManifestFile) -> str:
        key = blob_key(file.sha256)
        hasher = hashlib.sha256()
        try:
            size = self.objects.size(key)
            if size != file.size:
                return f"{size} bytes instead of {file.size}"
            for part in self.objects.stream(key):
                hasher.update(part)
        except ObjectNotFound:
            return "missing"
        return "" if hasher.hexdigest() == file.sha256 else "bytes do not match the SHA-256"


_OPENED: dict[tuple[str, Path], ArtifactStore] = {}  # of this process, by URL and cache
