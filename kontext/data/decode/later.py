"""The pictures of a file behind its first: frames of animations, pages, further pictures of a JPEG.

They are decoded so that they can be checked, one after the other; nobody keeps them. A file with
one that cannot be decoded, or with more than can be checked, is refused: none goes unchecked.
"""

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageColor

from kontext.data.decode.jpeg import later_jpegs
from kontext.data.decode.raster import decode_raster
from kontext.data.decode.result import MAX_CHECKED, Decoded, Reason
from kontext.data.decode.tiff import later_pages
from kontext.data.pixels import Pixels
from kontext.errors import DecodeError

_PILLOW = {"gif": "GIF", "png": "PNG", "webp": "WEBP", "avif": "AVIF", "heic": "HEIF"}


def later_pictures(data: bytes, first: Decoded, background: str) -> Iterator[Pixels]:
    """Pixels uint8 [H, W, 3] of each picture behind the first; none that is as the one before it.

    Raises:
        DecodeError: one cannot be decoded, there are fewer than the file says, or too many.
    """
    if first.frames > MAX_CHECKED:
        raise _too_many()
    if first.format == "tiff":
        pages = later_pages(data, MAX_CHECKED)
        yield from (decode_raster(page, "tiff", background).rgb for page in pages)
    elif first.format == "jpeg" and first.frames > 1:
        parts = later_jpegs(data, MAX_CHECKED)
        yield from (decode_raster(part, "jpeg", background).rgb for part in parts)
    elif first.format in _PILLOW and (first.format != "png" or first.frames > 1):
        yield from _frames(data, first, background)


def _frames(data: bytes, first: Decoded, background: str) -> Iterator[Pixels]:
    """Frames as a viewer shows them, on the background, up to the last that there is."""
    before = b""
    with Image.open(io.BytesIO(data), formats=[_PILLOW[first.format]]) as image:
        number = 1
        while True:
            try:
                image.seek(number)
            except EOFError:
                break
            if number >= MAX_CHECKED:
                raise _too_many()
            shown = image.convert("RGBA")
            under = Image.new("RGBA", shown.size, ImageColor.getrgb(background))
            rgb = np.asarray(Image.alpha_composite(under, shown).convert("RGB"))
            number, now = number + 1, rgb.tobytes()
            if now != before:
                yield rgb
            before = now
    if number < first.frames:
        raise DecodeError(
            Reason.CORRUPT, f"{first.format}: picture {number + 1} of {first.frames} is missing"
        )


def _too_many() -> DecodeError:
    return DecodeError(Reason.TOO_MANY_FRAMES, f"more than {MAX_CHECKED:,} pictures to check")
