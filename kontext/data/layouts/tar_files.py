"""Members of a tar file and where their bytes lie. Nothing is unpacked, and nothing is trusted.

`tarfile` reads a header's extension whole, however long it says it is, and follows links. Here an
extension has a limit, every other kind of member has a reason, and zero blocks do not end the file,
because published sets are tars put behind each other.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from kontext.data.layouts.base import JUNK_FILES, JUNK_FOLDERS, is_text
from kontext.errors import SourceError, TooLargeError

_BLOCK = 512
_LONGEST = 1 << 20  # bytes of a header's extension
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_LINKS = (tarfile.LNKTYPE, tarfile.SYMTYPE)
_EMPTY = (*_LINKS, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)


@dataclass(frozen=True)
class TarMember:
    """Bytes inside a tar file."""

    path: Path
    offset: int
    size: int

    def read(self, limit: int) -> bytes:
        """The bytes of the member. Raises SourceError."""
        where = f"{self.path.name}: {self.size} bytes at {self.offset}"
        if self.size > limit:
            raise TooLargeError(f"{where}, limit {limit:,}")
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                data = file.read(self.size)
        except OSError as error:
            raise SourceError(f"{where}: {error.strerror}") from error
        if len(data) < self.size:
            raise SourceError(f"{where}: the file ends before")
        return data


@dataclass(frozen=True)
class Entry:
    """A member that is no folder: what its name is, where it lies, or why it is not read.

    `archive` counts the tars that were put behind each other in one file, from 0.
    """

    name: str
    member: TarMember
    archive: int
    reason: str = ""  # or link, not_regular, name_outside, hidden, junk, undecodable_name,
    detail: str = ""  # truncated, tar_broken (nothing behind it can be read)


@dataclass(frozen=True)
class _Next:
    """What extensions say of the member behind them."""

    name: bytes | None = None
    size: int | None = None
    sparse: bool = False


class _BrokenError(Exception):
    """The rest of the file cannot be read; the text says why."""


def entries(path: Path) -> Iterator[Entry]:
    """Every member of the tar at `path`, in its order, and what ends it before its time.

    Raises:
        SourceError: the file cannot be read.
    """
    try:
        end = path.stat().st_size
        with path.open("rb") as file:
            yield from _entries(path, file, end)
    except OSError as error:
        raise SourceError(f"{path.name}: {error.strerror}") from error


def _entries(path: Path, file: BinaryIO, end: int) -> Iterator[Entry]:
    at, archive, ended, ahead = 0, 0, False, _Next()
    while at + _BLOCK <= end:
        file.seek(at)
        header = file.read(_BLOCK)
        if not header.strip(b"\0"):
            at, ended = at + _BLOCK, True
            continue
        archive, ended = archive + (ended and at > 0), False
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
            if info.size < 0:
                raise _BrokenError("a size below zero")
            start = at + _BLOCK
            if info.type in b"xgLK":
                at = start + _padded(info.size)
                ahead = _extended(ahead, info, _extension(file, info.size, end - start))
                continue
            start += _more_headers(file, header, info)
        except (tarfile.HeaderError, _BrokenError, ValueError) as error:
            yield _stop(path, archive, at, "tar_broken", f"byte {at}: {error}")
            return
        entry, at = _entry(path, info, ahead, start, archive)
        ahead = _Next()
        if entry.member.offset + entry.member.size > end:
            yield replace(entry, reason="truncated", detail="the file ends before")
            return
        if info.type not in (tarfile.DIRTYPE, b"D", b"V"):
            yield entry
    if at < end and not ended:
        yield _stop(path, archive, at, "truncated", "the file ends in a header")
    elif at > end:
        yield _stop(path, archive, at, "truncated", "the file ends before its last member")


def _entry(
    path: Path, info: tarfile.TarInfo, ahead: _Next, start: int, archive: int
) -> tuple[Entry, int]:
    """The member, and the byte where the next header stands."""
    raw = info.name if ahead.name is None else ahead.name.decode("utf-8", "surrogateescape")
    name = raw.removeprefix("./")
    size = info.size if ahead.size is None else ahead.size
    size = 0 if info.type in _EMPTY else size
    member = TarMember(path.absolute(), start, size)
    found = Entry(name, member, archive, _unread(name, info.type, ahead.sparse))
    return found, start + _padded(size)


def _unread(name: str, kind: bytes, sparse: bool) -> str:
    """Why a member is not read, or ""."""
    path = PurePosixPath(name)
    if not is_text(name):
        return "undecodable_name"
    if kind in _LINKS:
        return "link"
    if kind not in _REGULAR or sparse:
        return "not_regular"
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        return "name_outside"
    if any(part.startswith(".") for part in path.parts):
        return "hidden"
    return "junk" if {*JUNK_FOLDERS, *JUNK_FILES} & set(path.parts) else ""


def _extension(file: BinaryIO, size: int, left: int) -> bytes:
    if size > _LONGEST:
        raise _BrokenError(f"a header of {size} bytes, at most {_LONGEST}")
    if size > left:
        raise _BrokenError("the file ends in a header")
    return file.read(size)


def _extended(ahead: _Next, info: tarfile.TarInfo, data: bytes) -> _Next:
    """What is known of the next member after one more extension."""
    if info.type == tarfile.GNUTYPE_LONGNAME:
        return replace(ahead, name=data.rstrip(b"\0"))
    if info.type != tarfile.XHDTYPE:
        return ahead  # a link's long name; settings for all members, which say nothing of bytes
    for key, value in _pax_records(data):
        if key == b"path":
            ahead = replace(ahead, name=value)
        elif key == b"size":
            ahead = replace(ahead, size=int(value))  # ValueError: broken
            if int(value) < 0:
                raise _BrokenError("a size below zero")
        elif key.startswith(b"GNU.sparse."):
            ahead = replace(ahead, sparse=True)
    return ahead


def _pax_records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of records `LENGTH KEY=VALUE\\n`; ends where one is none."""
    while data:
        digits, _, _ = data[:20].partition(b" ")
        if not digits.isdigit() or not len(digits) < int(digits) <= len(data):
            return
        key, _, value = data[len(digits) + 1 : int(digits) - 1].partition(b"=")
        yield key, value
        data = data[int(digits) :]


def _more_headers(file: BinaryIO, header: bytes, info: tarfile.TarInfo) -> int:
    """Bytes of further header blocks: of a sparse file whose map is longer than one."""
    found, more = 0, info.type == tarfile.GNUTYPE_SPARSE and header[482:483] not in (b"\0", b"")
    while more:
        block = file.read(_BLOCK)
        found, more = found + _BLOCK, len(block) == _BLOCK and block[504:505] != b"\0"
    return found


def _stop(path: Path, archive: int, at: int, reason: str, detail: str) -> Entry:
    return Entry("", TarMember(path.absolute(), at, 0), archive, reason, detail)


def _padded(size: int) -> int:
    return size + -size % _BLOCK
