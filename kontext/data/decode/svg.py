"""SVG from packaged art: drawn with librsvg at the size that is asked for.

SVG is a program and not a picture, so it is accepted from trusted sources only.
"""

import re

import numpy as np
from PIL import ImageColor

from kontext.data.decode.problems import one_line
from kontext.data.decode.result import Decoded, Reason, check_size
from kontext.data.pixels import Pixels
from kontext.errors import DecodeError

_ROOT = re.compile(rb"<svg\b[^>]*>")
_LENGTH = rb"""\s%s\s*=\s*["']\s*([0-9.]+)\s*(?:px)?\s*["']"""


def decode_svg(data: bytes, resolution: int | None, background: str) -> Decoded:
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
        raise DecodeError(Reason.SVG_BROKEN, f"svg: {one_line(error)}") from error
    if (rgb == rgb[0, 0]).all():
        raise DecodeError(Reason.BLANK, "svg: nothing is drawn")
    return Decoded(rgb, size, "svg", "RGBA", 1, True, "none", 1)


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
    check_size(*size)
    width, height = (resolution, resolution) if resolution else size
    bare = re.sub(rb"""\s(?:width|height)\s*=\s*["'][^"']*["']""", b"", tag)
    extra = b' width="%d" height="%d"' % (width, height)
    if box is None:
        extra += b' viewBox="0 0 %d %d"' % size
    return data.replace(tag, bare[:4] + extra + bare[4:], 1), size
