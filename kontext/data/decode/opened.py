"""A picture whose header has been read and checked, and whose pixels have not."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image

from kontext.data.decode.problems import PARSER_ERRORS


@dataclass(frozen=True)
class Range:
    """What the file says of its samples. None: it says nothing, and the format does not either."""

    low: float = 0.0
    high: float | None = None


@dataclass(frozen=True)
class Opened:
    """One picture, ready to be streamed.

    `read` returns a fresh pyvips image [H, W, bands] each time: grey, RGB, CMYK or Lab bands, then
    perhaps alpha, then perhaps bands that mean nothing to us.
    """

    read: Callable[[], Any]
    width: int
    height: int
    colours: int  # bands of colour: 1, 3 or 4
    alpha: bool
    mode: str
    bytes_per_pixel: float  # held at once by the decoder itself, besides the result
    frames: int = 1
    orientation: int = 1
    profile: bytes | None = None  # b"" where one is embedded that cannot even be read
    range: Range | None = None  # only where samples are not plainly 8 bits or 16 bits
    premultiplied: bool = False
    lab: bool = False
    # called where decoding fails: raises the DecodeError that says more than the decoder's words
    diagnose: Callable[[], None] = lambda: None


def exif_orientation(payload: bytes | None) -> int:
    """EXIF orientation; 1 where it is missing or nonsense (a bad tag must not lose the picture)."""
    if not payload:
        return 1
    exif = Image.Exif()
    try:
        exif.load(payload)
        return valid_orientation(exif.get(0x0112, 1))
    except PARSER_ERRORS:
        return 1


def valid_orientation(value: object) -> int:
    """`value` if it is an orientation, else 1."""
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
