"""What a source yields: one item per image, planned before anything is decoded."""

from dataclasses import dataclass, field
from pathlib import Path

from kontext.errors import SourceError


@dataclass(frozen=True)
class SourceItem:
    """One image of a source, with everything that is known about it.

    `payload` holds the original bytes where the source makes them (rendered parameters, packed
    icon sets); `path` points to them where they lie on disk. Exactly one is set. Only packaged art
    may be SVG: `trusted_svg` tells the decode guard so.
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
    trusted_svg: bool = False

    def read(self, limit: int = 64 << 20) -> bytes:
        """The original bytes, at most `limit`. Raises SourceError if missing or larger."""
        if self.payload is not None:
            return self.payload
        if self.path is None:
            raise SourceError(f"{self.source}/{self.ref}: neither payload nor path")
        try:
            size = self.path.stat().st_size
            if size > limit:
                raise SourceError(f"{self.path.name}: {size} bytes, limit {limit}")
            return self.path.read_bytes()
        except OSError as error:
            raise SourceError(f"{self.path.name}: {error.strerror}") from error
