"""Exported stores as one tar file, for machines between which only files travel."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kontext.errors import ArtifactError
from kontext.store.artifacts import ArtifactStore
from kontext.store.objects import open_store


def is_archive(name: str) -> bool:
    """Whether a source or target means a tar file rather than a store."""
    return name.endswith(".tar")


def write_archive(folder: Path, archive: Path) -> None:
    """Pack an exported folder; the same export gives the same bytes. Raises ArtifactError."""
    partial = archive.with_name(archive.name + ".partial")
    try:
        with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as tar:
            files = (path for path in folder.rglob("*") if path.is_file())
            for path in sorted(files):
                name = path.relative_to(folder).as_posix()
                if not name.startswith("."):  # a local store's unfinished writes
                    tar.add(path, name, filter=_anonymous)
        partial.replace(archive)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ArtifactError(f"cannot write {archive}: {error.strerror}") from error


def _anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mtime = 0
    info.mode = 0o644
    return info


@contextmanager
def open_exported(source: str, scratch: Path) -> Iterator[ArtifactStore]:
    """The store that a folder, URL or tar file means; a tar file is unpacked into `scratch`.

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
                    if member.name.split("/")[0] not in ("blobs", "runs", "tags"):
                        raise ArtifactError(f"{source} is not an export: it holds '{member.name}'")
                tar.extractall(folder, filter="data")
        except (OSError, tarfile.TarError) as error:
            raise ArtifactError(f"cannot read {source}: {error}") from error
        yield ArtifactStore(open_store(f"file://{folder}"), Path(temporary, "cache"))
