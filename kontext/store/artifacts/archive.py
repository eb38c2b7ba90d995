"""Exported stores as one tar file, for machines between which only files travel."""

import lzma
import shutil
import struct
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from kontext.errors import ArtifactError
from kontext.store.artifacts.artifact_store import ArtifactStore
from kontext.store.objects import open_store

_LOOKS_BACK = 256 << 20  # bytes; compressing takes seven times as much memory, reading as much
_MALFORMED = (  # what tarfile raises or lets through
    ArithmeticError, EOFError, LookupError, MemoryError, RecursionError, ValueError,
    lzma.LZMAError, struct.error, tarfile.TarError, zlib.error,
)  # fmt: skip
_LAYOUT = ("blobs", "runs", "tags", "datasets", "ledger", "models", "export.json")  # of an archive


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
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    info.mode = 0o644
    return info


def unpack(tar: tarfile.TarFile, folder: Path) -> None:
    """Write a tar's files below a folder, whose parent is there; nothing else, and nowhere else.

    (Extraction filters, PEP 706, are not in Debian 12's Python 3.11.2.)

    Raises ArtifactError, before anything is written, for absolute names, names with `..`, devices,
    files with holes, links but for second names of files that come before them, two files of one
    name, a file that is a folder as well, more bytes than there is room for, and what is no tar.
    """
    with _readable(str(tar.name)):
        members = tar.getmembers()
        _check_end(tar)
        _check(members, shutil.disk_usage(folder.parent).free)
        for member in (one for one in members if not one.isdir()):
            path = folder / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            if member.islnk():
                path.hardlink_to(folder / member.linkname)
                continue
            source = tar.extractfile(member)
            assert source is not None  # it is a file
            with source, path.open("wb") as target:
                shutil.copyfileobj(source, target)


@contextmanager
def _readable(source: str) -> Iterator[None]:
    """Raise ArtifactError for all that tarfile and its decompressors raise of bytes that lie."""
    try:
        yield
    except ArtifactError:
        raise
    except OSError as error:
        raise ArtifactError(f"cannot read {source}: {error.strerror or error}") from error
    except _MALFORMED as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise ArtifactError(f"cannot read {source}: {said}") from error


def _check_end(tar: tarfile.TarFile) -> None:
    """Raise ArtifactError for a tar without its last, empty block; tarfile takes it as whole."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise ArtifactError(f"cannot read {tar.name!s}: it is cut off")


def _check(members: Iterable[tarfile.TarInfo], room: int) -> None:
    """Raise ArtifactError for what `unpack` does not write; `room` is in bytes."""
    files: set[PurePosixPath] = set()
    folders: set[PurePosixPath] = set()
    for member in members:
        name = PurePosixPath(member.name)
        within = not name.is_absolute() and ".." not in name.parts and "\0" not in member.name
        whole = member.isfile() and not member.issparse()  # holes are free to ask for
        same = member.islnk() and PurePosixPath(member.linkname) in files  # under a second name
        if not within or not (whole or same or member.isdir()):
            raise ArtifactError(f"'{member.name}' is no file below the archive's own folder")
        folders.update(name.parents)
        if member.isdir():
            folders.add(name)
        elif name in files:
            raise ArtifactError(f"'{member.name}' is twice in the archive")
        else:
            files.add(name)
        room -= member.size
        if room < 0:
            raise ArtifactError("the archive holds more than there is room for on this disk")
    if both := sorted(files & folders):
        raise ArtifactError(f"'{both[0]}' is a file and a folder in the archive")


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
        with _readable(source), tarfile.open(source) as tar:
            for member in tar.getmembers():
                if member.name.split("/")[0] not in _LAYOUT:
                    raise ArtifactError(f"{source} is not an export: it holds '{member.name}'")
            unpack(tar, folder)
        yield ArtifactStore(open_store(f"file://{folder}"), Path(temporary, "cache"))
