"""What a source yields: one item per image, planned before anything is decoded."""

from dataclasses import dataclass, field
from pathlib import Path

from kontext.data.layouts.base import LARGEST, Part
from kontext.errors import ChangedError, SourceError, TooLargeError

Stamp = tuple[int, int, int, int]  # size, modification and change time in ns, inode


def stamp_of(path: Path) -> Stamp | None:
    """What changes when a file is changed, even if size and times are put back; None: it is gone.

    Nobody can set a file's change time.
    """
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


@dataclass(frozen=True)
class SourceItem:
    """One image of a source, with everything that is known about it.

    `payload` holds the original bytes where the source makes them (rendered parameters, packed
    icon sets); `path` points to them where they lie on disk, `part` where they are inside a larger
    file. Exactly one is set. `stamp` is the file's when it was planned: whoever reads it later gets
    the same bytes, or an error. Only packaged art may be SVG: `trusted_svg` tells the decode guard
    so.
    """

    source: str  # e.g. "emoji:noto"
    ref: str  # name inside the source, unique there
    group_key: str  # same concept, character or scene; the unit that is held out
    concept: str  # in words
    license_spdx: str
    author: str
    attributes: dict[str, str] = field(default_factory=dict)
    synthetic: bool = False
    payload: bytes | None = None
    path: Path | None = None
    part: Part | None = None
    trusted_svg: bool = False
    stamp: Stamp | None = None
    series: str = ""  # photographs of one series may follow each other in time
    canvas: tuple[int, int] | None = None  # width to height, of what the picture is put on
    edits: bool = False  # stage ingest makes programmatic edits of it

    @property
    def file(self) -> Path | None:
        """The file that the bytes are in, if they are in one."""
        return self.path or getattr(self.part, "path", None)

    def read(self, limit: int = LARGEST) -> bytes:
        """The original bytes, at most `limit`.

        Raises:
            SourceError: they are missing.
            TooLargeError: they are more.
            ChangedError: the file is another than it was when it was planned.
        """
        data = self._read(limit)
        self.check_unchanged()
        return data

    def check_unchanged(self) -> None:
        """Raises ChangedError where the file is another than it was when it was planned."""
        if self.stamp is not None and self.file is not None and stamp_of(self.file) != self.stamp:
            raise ChangedError(f"{self.file.name} was changed while it was read: run it again")

    def _read(self, limit: int) -> bytes:
        if self.payload is not None:
            return self.payload
        if self.part is not None:
            return self.part.read(limit)
        if self.path is None:
            raise SourceError(f"{self.source}/{self.ref}: neither payload nor path")
        try:
            size = self.path.stat().st_size
            if size > limit:
                raise TooLargeError(f"{self.path.name}: {size:,} bytes, limit {limit:,}")
            return self.path.read_bytes()
        except OSError as error:
            raise SourceError(f"{self.path.name}: {error.strerror}") from error


@dataclass(frozen=True)
class GivenPair:
    """A pair that the source brings with it. Pictures are named by their items' `ref`.

    Without contexts the instruction is a caption, and the pair is text-to-image.
    """

    source: str
    row: str  # where it stands, e.g. metadata.jsonl:12
    target: str
    contexts: tuple[str, ...]
    instruction: str  # byte for byte
    kind: str = ""  # what the set calls this kind of edit
    target_caption: str = ""


@dataclass(frozen=True)
class Skipped:
    """A file or row that gives no item or pair, and why, in one word and one line."""

    source: str
    ref: str
    reason: str
    detail: str = ""


@dataclass
class Planned:
    """All that a source holds: every entry is an item, a part of a pair, or skipped."""

    items: list[SourceItem] = field(default_factory=list)
    pairs: list[GivenPair] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
