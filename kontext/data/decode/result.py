"""What decoding gives: pixels and facts, or a reason; and the limits that are checked first."""

from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property

from kontext.data.buckets import fit
from kontext.data.pixels import Pixels, pixel_id
from kontext.errors import DecodeError


class Reason(StrEnum):
    """Why bytes were refused. Recorded in `rejects`, explained in docs/stages/ingest.md."""

    EMPTY = "empty"
    TOO_MANY_BYTES = "too_many_bytes"
    TOO_MANY_PIXELS = "too_many_pixels"
    SIDE_TOO_LONG = "side_too_long"
    TOO_SMALL = "too_small"
    UNSUPPORTED_FORMAT = "unsupported_format"
    UNSUPPORTED_MODE = "unsupported_mode"
    HEIC_NEEDS_LIBRARY = "heic_needs_library"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    RANGE = "range"  # nothing says which number is white
    RESOURCE = "resource"  # more memory or work than a picture may cost
    TIMEOUT = "timeout"
    TOO_MANY_FRAMES = "too_many_frames"
    BLANK = "blank"
    SVG_UNTRUSTED = "svg_untrusted"
    SVG_BROKEN = "svg_broken"


@dataclass(frozen=True)
class Decoded:
    """Canonical pixels and what the file said about itself."""

    rgb: Pixels  # uint8 [H, W, 3], sRGB
    orig_size: tuple[int, int]  # (width, height) after orientation, before any resize
    format: str  # lower case, as sniffed
    mode: str  # as stored: 1, L, LA, P, RGB, RGBA, CMYK, LAB, YCbCr; deeper: L;16, RGB;32F
    frames: int  # pictures in the file, counted up to MAX_FRAMES
    alpha: bool
    icc: str  # none, srgb (computes what sRGB does), applied, or unusable (broken, ignored)
    exif_orientation: int  # 1 to 8; 1 where missing or invalid
    taken: float | None = None  # seconds since 1970 on the camera's clock, where the file says it

    @cached_property
    def pixel_id(self) -> str:
        """The id of `rgb`: computed here, and only where it is asked for."""
        return pixel_id(self.rgb)


# checked before pixels exist
MAX_BYTES = 64 << 20
MAX_PIXELS = 64_000_000
MAX_SIDE, MIN_SIDE = 32_768, 8
MAX_MEMORY = 1 << 30  # bytes one picture may take while it is decoded, by its header
CPU_SECONDS = 30  # processor time of one picture; a deadline by the clock would depend on the load
WALL_SECONDS = 600  # a decoder that waits for something that never comes
MAX_FRAMES = 10_000  # more are not counted
MAX_CHECKED = 1_000  # pictures of one file; a file with more cannot be checked, and is refused


class LaterError(DecodeError):
    """A picture behind the `first` one of a file cannot be checked."""

    def __init__(self, reason: str, message: str, first: Decoded) -> None:
        super().__init__(reason, message)
        self.first = first


def check_size(width: int, height: int) -> None:
    """Raise DecodeError for a picture that is too small or too large."""
    size = f"{width}x{height}"
    if min(width, height) < MIN_SIDE:
        raise DecodeError(Reason.TOO_SMALL, f"{size}, at least {MIN_SIDE} a side")
    if max(width, height) > MAX_SIDE:
        raise DecodeError(Reason.SIDE_TOO_LONG, f"{size}, at most {MAX_SIDE:,}")
    if width * height > MAX_PIXELS:
        raise DecodeError(Reason.TOO_MANY_PIXELS, f"{size}, at most {MAX_PIXELS:,} pixels")


def check_memory(pixels: int, bytes_per_pixel: float) -> None:
    """Raise DecodeError where decoding would take more than MAX_MEMORY."""
    needed = int(pixels * bytes_per_pixel)
    if needed > MAX_MEMORY:
        raise DecodeError(
            Reason.RESOURCE, f"{needed >> 20:,} MiB to decode, at most {MAX_MEMORY >> 20:,}"
        )


def to_square(decoded: Decoded, resolution: int) -> Decoded:
    """Lanczos resize of the shorter side to `resolution`, then the centre square."""
    height, width = decoded.rgb.shape[:2]
    rgb = fit((width, height), (resolution, resolution))(decoded.rgb)
    return replace(decoded, rgb=rgb)
