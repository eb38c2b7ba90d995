"""The one decode guard: every reader turns bytes into RGB8 pixels here, or gets a DecodeError.

Order: byte cap, magic, header-only size check, decode, orientation, colour, alpha, size. Nothing
is allocated in proportion to an image that the caps refuse. Rules for odd modes:

- palette, bilevel, tRNS: expanded, transparency kept until it is composited;
- CMYK and YCCK: through the embedded profile where it works, else Pillow's plain conversion;
- 16-bit and 32-bit integers are read on the 16-bit scale (v / 257), floats on the 0-1 scale, or
  on the 0-255 or 0-65535 scale where their largest finite value says so;
- animations and multi-picture files: the first frame, the number of frames recorded;
- alpha: composited on `background`; embedded ICC profiles: converted to sRGB.
"""

import io
import re
import struct
import warnings
import zlib
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageColor

from kontext.data.buckets import fit
from kontext.data.pixels import Pixels, pixel_id
from kontext.errors import DecodeError


class Reason(StrEnum):
    """Why bytes were refused. Recorded in `rejects`."""

    EMPTY = "empty"
    TOO_MANY_BYTES = "too_many_bytes"
    TOO_MANY_PIXELS = "too_many_pixels"
    SIDE_TOO_LONG = "side_too_long"
    TOO_SMALL = "too_small"
    UNSUPPORTED_FORMAT = "unsupported_format"
    UNSUPPORTED_MODE = "unsupported_mode"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    BLANK = "blank"
    SVG_UNTRUSTED = "svg_untrusted"
    SVG_BROKEN = "svg_broken"


@dataclass(frozen=True)
class Decoded:
    """Canonical pixels and what the file said about itself."""

    rgb: Pixels  # uint8 [H, W, 3], sRGB
    orig_size: tuple[int, int]  # (width, height) after orientation, before any resize
    format: str  # lower case, as sniffed
    mode: str  # Pillow's name of the stored mode
    frames: int
    alpha: bool
    icc: str  # none, srgb, applied, or unusable (a broken profile, ignored)
    exif_orientation: int  # 1 to 8; 1 where missing or invalid
    pixel_id: str


# checked before pixels exist
MAX_BYTES = 64 << 20
MAX_PIXELS = 64_000_000
MAX_SIDE, MIN_SIDE = 32_768, 8

# Pillow warns on stderr while it reads a header whose size we then refuse ourselves
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

# Everything Pillow's parsers are known to raise on hostile bytes.
_PARSER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    MemoryError,
    EOFError,
    struct.error,
    zlib.error,
)
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ALPHA_MODES = ("RGBA", "LA", "La", "PA", "RGBa")
_SRGB = ImageCms.createProfile("sRGB")


def decode_image(
    data: bytes, *, resolution: int | None, background: str, svg: bool = False
) -> Decoded:
    """Decode untrusted bytes to sRGB pixels.

    Args:
        data: the file.
        resolution: side of the square result (its centre, and of vector art all of it), or None
            to keep the decoded size.
        background: "#rrggbb" under transparency.
        svg: accept SVG (packaged art only: SVG is a program, not a picture).

    Raises:
        DecodeError: with a `Reason`.
    """
    if not data:
        raise DecodeError(Reason.EMPTY, "the file is empty")
    if len(data) > MAX_BYTES:
        raise DecodeError(Reason.TOO_MANY_BYTES, f"{len(data):,} bytes, limit {MAX_BYTES:,}")
    kind = sniff(data)
    if kind == "svg":
        if not svg:
            raise DecodeError(Reason.SVG_UNTRUSTED, "SVG is accepted from packaged art only")
        decoded = _decode_svg(data, resolution, background)
    elif kind is None:
        raise DecodeError(Reason.UNSUPPORTED_FORMAT, "not an image format we read")
    else:
        decoded = _decode_raster(data, kind, background)
    if resolution is None:
        return decoded
    height, width = decoded.rgb.shape[:2]
    rgb = fit((width, height), (resolution, resolution))(decoded.rgb)
    return replace(decoded, rgb=rgb, pixel_id=pixel_id(rgb))


def sniff(data: bytes) -> str | None:
    """Format by magic: png, jpeg, gif, webp, bmp, tiff, avif, ppm, svg; None for anything else."""
    head = data[:16]
    for magic, kind in (
        (b"\x89PNG\r\n\x1a\n", "png"),
        (b"\xff\xd8\xff", "jpeg"),
        (b"GIF87a", "gif"),
        (b"GIF89a", "gif"),
        (b"BM", "bmp"),
        (b"II*\0", "tiff"),
        (b"MM\0*", "tiff"),
    ):
        if head.startswith(magic):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[4:8] == b"ftyp" and (b"avif" in data[8:64] or b"avis" in data[8:64]):
        return "avif"
    if re.match(rb"P[1-6]\s", head):
        return "ppm"
    start = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"<") and re.search(rb"<svg[\s>]", start):
        return "svg"
    return None


# --- raster --------------------------------------------------------------------------------------

_PLUGINS = {"jpeg": ["JPEG", "MPO"]}


def _decode_raster(data: bytes, kind: str, background: str) -> Decoded:
    if kind == "webp":
        _check_size(*_webp_size(data))
        if len(data) < struct.unpack_from("<I", data, 4)[0] + 8:
            raise DecodeError(Reason.TRUNCATED, "webp: the file ends early")
    try:
        with Image.open(io.BytesIO(data), formats=_PLUGINS.get(kind, [kind.upper()])) as image:
            _check_size(*image.size)
            mode = image.mode
            frames = int(getattr(image, "n_frames", 1))
            orientation = _orientation(image)
            profile = image.info.get("icc_profile")
            image.load()
            # Pillow's TIFF reader turns the picture itself while loading
            method = None if kind == "tiff" else _TRANSPOSE.get(orientation)
            turned = image if method is None else image.transpose(method)
            rgb, alpha, icc = _to_rgb(turned, profile, background)
    except DecodeError:
        raise
    except Image.DecompressionBombError as error:
        raise DecodeError(Reason.TOO_MANY_PIXELS, f"more than {MAX_PIXELS:,} pixels") from error
    except _PARSER_ERRORS as error:
        raise DecodeError(_why(error), f"{kind}: {_one_line(error)}") from error
    height, width = rgb.shape[:2]
    return Decoded(rgb, (width, height), kind, mode, frames, alpha, icc, orientation, pixel_id(rgb))


def _check_size(width: int, height: int) -> None:
    size = f"{width}x{height}"
    if min(width, height) < MIN_SIDE:
        raise DecodeError(Reason.TOO_SMALL, f"{size}, at least {MIN_SIDE} a side")
    if max(width, height) > MAX_SIDE:
        raise DecodeError(Reason.SIDE_TOO_LONG, f"{size}, at most {MAX_SIDE:,}")
    if width * height > MAX_PIXELS:
        raise DecodeError(Reason.TOO_MANY_PIXELS, f"{size}, at most {MAX_PIXELS:,} pixels")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Canvas size from the header: Pillow's WebP reader allocates the canvas on open."""
    chunk, body = data[12:16], data[20:30]
    if len(body) < 10:
        raise DecodeError(Reason.TRUNCATED, "webp: the header ends early")
    if chunk == b"VP8X":
        width, height = (int.from_bytes(body[i : i + 3], "little") + 1 for i in (4, 7))
        return width, height
    if chunk == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 ":
        width, height = struct.unpack_from("<HH", body, 6)
        return width & 0x3FFF, height & 0x3FFF
    raise DecodeError(Reason.CORRUPT, "webp: unknown first chunk")


def _why(error: BaseException) -> Reason:
    text = str(error).lower()
    early = isinstance(error, EOFError) or "truncated" in text or "incomplete" in text
    return Reason.TRUNCATED if early or "not enough image data" in text else Reason.CORRUPT


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return re.sub(r"<_io\.BytesIO[^>]*>", "the file", text)[:200]


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 where it is missing or nonsense (a bad tag must not lose the image)."""
    try:
        value = image.getexif().get(0x0112, 1)
    except _PARSER_ERRORS:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _to_rgb(image: Image.Image, profile: bytes | None, background: str) -> tuple[Pixels, bool, str]:
    """Return (RGB8 pixels, had transparency, what became of the ICC profile)."""
    mask: Image.Image | None = None
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        mask = image.getchannel("A")
        image = image.convert("RGB")
    elif image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_to_8_bit(np.asarray(image)))
    elif image.mode in ("1", "P", "RGBX"):
        image = image.convert("RGB" if image.mode != "1" else "L")
    elif image.mode not in ("L", "RGB", "CMYK", "YCbCr"):
        raise DecodeError(Reason.UNSUPPORTED_MODE, f"pixel mode {image.mode}")
    image, icc = _to_srgb(image, profile)
    if mask is not None:
        under = Image.new("RGB", image.size, ImageColor.getrgb(background)[:3])
        under.paste(image, mask=mask)
        image = under
    rgb: Pixels = np.array(image, dtype=np.uint8)
    return rgb, mask is not None, icc


def _to_8_bit(values: NDArray[np.generic]) -> Pixels:
    """Integers on the 16-bit scale, floats on the scale their largest finite value suggests."""
    wide = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    scale = 65535.0
    if values.dtype.kind == "f":
        top = float(wide.max())
        scale = 1.0 if top <= 1 else 255.0 if top <= 255 else 65535.0
    grey: Pixels = np.rint(np.clip(wide / scale, 0, 1) * 255).astype(np.uint8)
    return grey


def _to_srgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, str]:
    if not profile:
        return image.convert("RGB"), "none"
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if image.mode == "RGB" and "sRGB" in ImageCms.getProfileDescription(source):
            return image, "srgb"
        converted = ImageCms.profileToProfile(image, source, _SRGB, outputMode="RGB")
    except (ImageCms.PyCMSError, *_PARSER_ERRORS):
        return image.convert("RGB"), "unusable"
    assert converted is not None
    return converted, "applied"


# --- svg -----------------------------------------------------------------------------------------

_ROOT = re.compile(rb"<svg\b[^>]*>")
_LENGTH = rb"""\s%s\s*=\s*["']\s*([0-9.]+)\s*(?:px)?\s*["']"""


def _decode_svg(data: bytes, resolution: int | None, background: str) -> Decoded:
    """Rasterise packaged art with librsvg, whole, centred, on the background."""
    import pyvips

    pyvips.cache_set_max(0)  # every icon is rendered once: a cache only grows
    if b"<!ENTITY" in data or b"<!DOCTYPE" in data:
        raise DecodeError(Reason.SVG_BROKEN, "svg: document type declarations are refused")
    sized, size = _size_svg(data, resolution)
    try:
        image = pyvips.Image.svgload_buffer(sized)
        if image.bands == 4:
            image = image.flatten(background=list(ImageColor.getrgb(background)[:3]))
        rgb: Pixels = np.ascontiguousarray(image.numpy()[..., :3], dtype=np.uint8)
    except pyvips.Error as error:
        raise DecodeError(Reason.SVG_BROKEN, f"svg: {_one_line(error)}") from error
    if (rgb == rgb[0, 0]).all():
        raise DecodeError(Reason.BLANK, "svg: nothing is drawn")
    return Decoded(rgb, size, "svg", "RGBA", 1, True, "none", 1, pixel_id(rgb))


def _size_svg(data: bytes, resolution: int | None) -> tuple[bytes, tuple[int, int]]:
    """Put the target size into the root tag. Returns (svg, natural size)."""
    root = _ROOT.search(data)
    if root is None:
        raise DecodeError(Reason.SVG_BROKEN, "svg: no root element")
    tag = root.group()
    box = re.search(rb"""\sviewBox\s*=\s*["']([^"']*)["']""", tag)
    lengths = [re.search(_LENGTH % name, tag) for name in (b"width", b"height")]
    try:
        if box is not None:
            natural = [float(v) for v in box.group(1).replace(b",", b" ").split()[2:4]]
        else:
            natural = [float(length.group(1)) for length in lengths if length is not None]
    except ValueError as error:
        raise DecodeError(Reason.SVG_BROKEN, "svg: size is not a number") from error
    if len(natural) != 2:
        raise DecodeError(Reason.SVG_BROKEN, "svg: neither viewBox nor width and height")
    size = round(natural[0]), round(natural[1])
    _check_size(*size)
    width, height = (resolution, resolution) if resolution else size
    bare = re.sub(rb"""\s(?:width|height)\s*=\s*["'][^"']*["']""", b"", tag)
    extra = b' width="%d" height="%d"' % (width, height)
    if box is None:
        extra += b' viewBox="0 0 %d %d"' % size
    return data.replace(tag, bare[:4] + extra + bare[4:], 1), size
