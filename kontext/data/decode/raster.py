"""Decoding in this process: sniff, open, stream through colour, composite, turn."""

from typing import Any

import numpy as np
from PIL import ImageColor

from kontext.data.decode.colour import lab_to_srgb, to_srgb
from kontext.data.decode.jpeg import check_warnings, open_jpeg
from kontext.data.decode.opened import Opened
from kontext.data.decode.others import open_avif, open_bmp, open_gif, open_heic, open_ppm, open_webp
from kontext.data.decode.png import open_png
from kontext.data.decode.problems import as_decode_errors
from kontext.data.decode.result import MAX_BYTES, Decoded, Reason, check_memory, to_square
from kontext.data.decode.samples import clip_to, to_full_scale
from kontext.data.decode.sniff import sniff
from kontext.data.decode.svg import decode_svg
from kontext.data.decode.taken import KINDS, taken_at
from kontext.data.decode.tiff import open_tiff
from kontext.data.pixels import Pixels
from kontext.errors import DecodeError

_OPEN = {
    "png": open_png,
    "jpeg": open_jpeg,
    "tiff": open_tiff,
    "gif": open_gif,
    "webp": open_webp,
    "bmp": open_bmp,
    "ppm": open_ppm,
    "avif": open_avif,
    "heic": open_heic,
}
_RESULT = 8  # bytes a pixel: the result, and the same again while it is turned or composited


def decode_here(
    data: bytes, *, resolution: int | None, background: str, svg: bool = False
) -> Decoded:
    """`decode_image` without its limits on time and memory. Raises DecodeError."""
    check_bytes(data)
    kind = sniff(data)
    if kind is None:
        raise DecodeError(Reason.UNSUPPORTED_FORMAT, "not an image format we read")
    if kind == "svg" and not svg:
        raise DecodeError(Reason.SVG_UNTRUSTED, "SVG is accepted from packaged art only")
    with as_decode_errors(kind):
        if kind == "svg":
            decoded = decode_svg(data, resolution, background)
        else:
            decoded = decode_raster(data, kind, background)
    return decoded if resolution is None else to_square(decoded, resolution)


def check_bytes(data: bytes) -> None:
    """Raise DecodeError for a file that is empty or too large to be looked at."""
    if not data:
        raise DecodeError(Reason.EMPTY, "the file is empty")
    if len(data) > MAX_BYTES:
        raise DecodeError(Reason.TOO_MANY_BYTES, f"{len(data):,} bytes, limit {MAX_BYTES:,}")


def decode_raster(data: bytes, kind: str, background: str) -> Decoded:
    """The first picture of a file of this kind. Raises DecodeError, and what decoders raise."""
    import pyvips

    pyvips.cache_set_max(0)  # every picture is read once: a cache only grows
    opened = _OPEN[kind](data)
    check_memory(opened.width * opened.height, opened.bytes_per_pixel + _RESULT)
    pyvips.Error("")  # reading an error clears libvips' messages
    image = opened.read()
    if (image.width, image.height) != (opened.width, opened.height):
        raise DecodeError(Reason.CORRUPT, f"{kind}: header and decoder state different sizes")
    streamed, icc = _stream(image, opened)
    try:
        pixels = np.atleast_3d(streamed.numpy())
    except pyvips.Error:
        opened.diagnose()
        raise
    if kind == "jpeg":
        check_warnings(pyvips.Error("").detail)
    transparent = pixels.shape[2] == 4
    if transparent and not pixels[..., 3].any():
        raise DecodeError(Reason.BLANK, f"{kind}: every pixel is transparent")
    rgb = _turn(_composite(pixels, background) if transparent else pixels, opened.orientation)
    height, width = rgb.shape[:2]
    return Decoded(
        rgb=rgb,
        orig_size=(width, height),
        format=kind,
        mode=opened.mode,
        frames=opened.frames,
        alpha=transparent,
        icc=icc,
        exif_orientation=opened.orientation,
        taken=taken_at(data) if kind in KINDS else None,
    )


def _stream(image: Any, opened: Opened) -> tuple[Any, str]:
    """The picture as uchar RGB or RGBA, not yet computed, and what became of its profile."""
    if opened.lab:
        return lab_to_srgb(image.extract_band(0, n=3)), "none"
    # libvips gives a grey palette or frame as one band
    colours = opened.colours if image.bands >= opened.colours else 1
    image = to_full_scale(image, opened.read, opened.range, colours)
    colour = image.extract_band(0, n=colours)
    if not opened.alpha or image.bands == colours:
        return to_srgb(colour, opened.profile)
    alpha = image.extract_band(colours)
    if opened.premultiplied:
        full = 65535 if image.format == "ushort" else 255
        both = colour.bandjoin(alpha).copy(interpretation="multiband")
        straight = both.unpremultiply(max_alpha=full, alpha_band=colours)
        colour = clip_to(straight.extract_band(0, n=colours), image.format)
    rgb, icc = to_srgb(colour, opened.profile)
    if alpha.format == "ushort":
        alpha = (alpha / 257).rint().cast("uchar")
    return rgb.bandjoin(alpha), icc


def _composite(pixels: Pixels, background: str) -> Pixels:
    import pyvips

    rgba = pyvips.Image.new_from_array(pixels, interpretation="srgb")
    under = list(ImageColor.getrgb(background)[:3])
    rgb: Pixels = rgba.flatten(background=under).numpy()
    return rgb


def _turn(rgb: Pixels, orientation: int) -> Pixels:
    """Upright, by EXIF orientation 1 to 8 (CIPA DC-008)."""
    if orientation >= 5:
        rgb = rgb.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        rgb = rgb[::-1]
    if orientation in (2, 3, 6, 7):
        rgb = rgb[:, ::-1]
    return np.ascontiguousarray(rgb)
