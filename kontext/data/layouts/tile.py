"""One picture of several that a set keeps side by side in one file."""

from dataclasses import dataclass
from pathlib import Path

from kontext.data.layouts.base import Part, Picture
from kontext.errors import DecodeError, SourceError, TooLargeError


class TileError(SourceError):
    """The file is none that can be cut; `reason` is the reject reason that is recorded."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Tile:
    """One of two pictures of one size beside each other, in a file or a part of one.

    `border` pixels are around both, `gutter` between them; `side` is 0 for the left one, 1 for the
    right one. What is read is a PNG of the tile's own pixels: the file is decoded by the guard.
    """

    path: Path
    whole: Part | None  # None: all of the file
    side: int
    border: int = 0
    gutter: int = 0

    def read(self, limit: int) -> bytes:
        """The tile as a PNG. Raises SourceError where the file cannot be read or cut."""
        from kontext.data.decode import decode_image
        from kontext.data.pixels import encode_png

        try:
            rgb = decode_image(self._bytes(limit), resolution=None, background="#ffffff").rgb
        except DecodeError as error:
            raise TileError(error.reason, str(error)) from error
        height, width = rgb.shape[:2]
        across = width - 2 * self.border - self.gutter
        down = height - 2 * self.border
        # a narrower one is no two pictures, and half of one picture is no picture before
        if across % 2 or down <= 0 or across < down:
            raise TileError("not_side_by_side", f"{width}x{height} is not two pictures in a row")
        left = self.border + self.side * (across // 2 + self.gutter)
        return encode_png(rgb[self.border : self.border + down, left : left + across // 2])

    def _bytes(self, limit: int) -> bytes:
        if self.whole is not None:
            return self.whole.read(limit)
        try:
            if self.path.stat().st_size > limit:
                raise TooLargeError(f"{self.path.name}: more than {limit:,} bytes")
            return self.path.read_bytes()
        except OSError as error:
            raise SourceError(f"{self.path.name}: {error.strerror}") from error


def tiles(picture: Picture, border: int = 0, gutter: int = 0) -> tuple[Picture, Picture]:
    """(left, right) of a file that holds two pictures beside each other."""
    left, right = (
        Picture(
            f"{picture.ref}#{name}",
            picture.path,
            Tile(picture.path, picture.part, side, border, gutter),
        )
        for side, name in enumerate(("left", "right"))
    )
    return left, right
