"""TIFF and BigTIFF: the first directory alone, whatever follows it.

Source: TIFF 6.0 (Adobe, 1992). The link to the next directory is cut before decoding, because
decoders count pages by walking all of them.
"""

import io
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

from kontext.data.decode.opened import Opened, Range, valid_orientation
from kontext.data.decode.result import MAX_FRAMES, MAX_PIXELS, Reason, check_memory, check_size
from kontext.errors import DecodeError

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIPS, _SAMPLES, _STRIP_BYTES = 273, 277, 279
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES, _EXTRA, _FORMAT = 322, 323, 324, 325, 338, 339
_LOW, _HIGH = (340, 280), (341, 281)  # SMin- and SMaxSampleValue before Min- and MaxSampleValue
_PROFILE, _ORIENTATION = 34675, 274
_JPEG, _PALETTE, _YCBCR, _LAB = 7, 3, 6, 8
_COLOURS = {0: 1, 1: 1, 2: 3, _PALETTE: 3, 5: 4, _YCBCR: 3, _LAB: 3}
_MODES = {0: "L", 1: "L", 2: "RGB", _PALETTE: "P", 5: "CMYK", _YCBCR: "YCbCr", _LAB: "LAB"}
_BITS_READ = (1, 2, 4, 8, 16, 32)  # libvips reads no doubles
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_ALPHA, _PREMULTIPLIED = (1, 2, 999), 1  # 999: written by Corel

Tags = TiffImagePlugin.ImageFileDirectory_v2


def open_tiff(data: bytes) -> Opened:
    """Check the first directory and where its data lies. Raises DecodeError."""
    import pyvips

    tags, single, frames = _first_directory(data)
    width, height = int(tags[_WIDTH]), int(tags[_HEIGHT])
    check_size(width, height)
    photometric = int(tags.get(_PHOTOMETRIC, 1))
    bits, kind = _sample(tags)
    if photometric not in _COLOURS or kind not in (_UNSIGNED, _SIGNED, _FLOAT):
        raise DecodeError(Reason.UNSUPPORTED_MODE, f"tiff: photometric {photometric}, kind {kind}")
    colours, extra = _COLOURS[photometric], _extra(tags, photometric)
    packed = bits == 12 and photometric == 1 and not extra
    if bits not in _BITS_READ and not packed:
        raise DecodeError(Reason.UNSUPPORTED_MODE, f"tiff: samples of {bits} bits")
    alpha = bool(extra) and extra[0] in _ALPHA
    _check_data(tags, len(data), width * height, (_stored(photometric) + len(extra)) * bits / 8)
    samples = colours + len(extra)  # once a palette is looked up

    def read() -> Any:
        return pyvips.Image.tiffload_buffer(single, access="sequential", fail_on="error")

    # libvips shows plain YCbCr as if it were RGB and does not read packed 12 bits: Pillow does
    by_pillow = packed or (photometric == _YCBCR and tags.get(_COMPRESSION, 1) != _JPEG)
    return Opened(
        read=(lambda: _with_pillow(single)) if by_pillow else read,
        width=width,
        height=height,
        colours=colours,
        alpha=alpha,
        mode=_mode(photometric, bits, kind, alpha),
        # floats are held as a whole, and so is what Pillow reads
        bytes_per_pixel=samples * bits / 8 * (3 if kind == _FLOAT else 1) + 8 * by_pillow,
        frames=frames,
        orientation=valid_orientation(tags.get(_ORIENTATION)),
        profile=_bytes(tags.get(_PROFILE)),
        range=Range(0, 4095) if packed else _range(tags, bits, kind, photometric),
        premultiplied=alpha and extra[0] == _PREMULTIPLIED,
        lab=photometric == _LAB,
    )


def later_pages(data: bytes, most: int) -> Iterator[bytes]:
    """A file for each page behind the first, in which it is the first. At most `most` pages."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    where, link = (8, "Q") if big else (4, "I")
    (start,) = struct.unpack_from(order + link, data, where)
    for at in _links(data, start, order, big)[: most - 1]:
        page = bytearray(data)
        (after,) = struct.unpack_from(order + link, data, at)
        if after in (0, start):  # the last; or the pages go in a circle
            return
        struct.pack_into(order + link, page, where, after)
        yield bytes(page)


def _first_directory(data: bytes) -> tuple[Tags, bytes, int]:
    """The tags, the file with nothing behind them, and the number of pages."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    tags = Tags(data[: 16 if big else 8])
    file = io.BytesIO(data)
    start = int(tags.next)
    if start >= len(data):
        raise DecodeError(Reason.TRUNCATED, "tiff: it ends before its directory")
    file.seek(start)
    tags.load(file)
    for tag in (_WIDTH, _HEIGHT):
        if not isinstance(tags.get(tag), int):
            raise DecodeError(Reason.CORRUPT, "tiff: it states no size")
    links = _links(data, start, order, big)
    single = bytearray(data)
    if links:
        size = 8 if big else 4
        single[links[0] : links[0] + size] = bytes(size)
    return tags, bytes(single), max(1, len(links))


def _links(data: bytes, at: int, order: str, big: bool) -> list[int]:
    """Where each directory's link to the next one lies, following at most MAX_FRAMES of them."""
    count, entry, link = ("Q", 20, "Q") if big else ("H", 12, "I")
    found: list[int] = []
    seen: set[int] = set()
    while at and at not in seen and len(found) < MAX_FRAMES:
        seen.add(at)
        try:
            (entries,) = struct.unpack_from(order + count, data, at)
            where = at + struct.calcsize(order + count) + entry * entries
            (at,) = struct.unpack_from(order + link, data, where)
        except struct.error:
            break
        found.append(where)
    return found


def _sample(tags: Tags) -> tuple[int, int]:
    """(bits, kind) of all samples."""
    found = []
    for tag, usual in ((_BITS, 1), (_FORMAT, _UNSIGNED)):
        values = {int(value) for value in _tuple(tags.get(tag, usual))}
        if len(values) != 1:
            raise DecodeError(Reason.UNSUPPORTED_MODE, "tiff: samples of several kinds")
        found.append(values.pop())
    bits, kind = found
    return bits, _UNSIGNED if kind == 4 else kind  # 4: undefined


def _stored(photometric: int) -> int:
    """Samples of colour that the file has for a pixel: of a palette, one."""
    return 1 if photometric == _PALETTE else _COLOURS[photometric]


def _extra(tags: Tags, photometric: int) -> tuple[int, ...]:
    """What each sample beyond the colours is; 0 where the file does not say."""
    stored = _stored(photometric)
    count = int(tags.get(_SAMPLES, stored)) - stored
    if not 0 <= count <= 4:
        raise DecodeError(Reason.UNSUPPORTED_MODE, f"tiff: {count + stored} samples a pixel")
    said = [int(value) for value in _tuple(tags.get(_EXTRA, ()))]
    if stored == 1 and count > 1 and not said:
        raise DecodeError(Reason.UNSUPPORTED_MODE, "tiff: several bands that are not colours")
    return tuple([*said, *[0] * count][:count])


def _check_data(tags: Tags, size: int, pixels: int, bytes_per_pixel: float) -> None:
    """Every strip or tile lies in the file, and is no larger than the picture could need."""
    tiled = _TILES in tags
    offsets = np.array(_tuple(tags.get(_TILES if tiled else _STRIPS, ())), np.float64)
    lengths = np.array(_tuple(tags.get(_TILE_BYTES if tiled else _STRIP_BYTES, ())), np.float64)
    if not len(offsets):
        raise DecodeError(Reason.CORRUPT, "tiff: it states no image data")
    ends = offsets + lengths if len(lengths) == len(offsets) else offsets
    if (ends > size).any():
        raise DecodeError(Reason.TRUNCATED, "tiff: its image data lies beyond its end")
    if tiled:
        tile = int(tags.get(_TILE_WIDTH, 0)) * int(tags.get(_TILE_HEIGHT, 0))
        if tile > max(4 * pixels, 1 << 20) or tile > MAX_PIXELS:
            raise DecodeError(Reason.RESOURCE, f"tiff: tiles of {tile:,} pixels")
    plain = tags.get(_COMPRESSION, 1) == 1 and tags.get(_PHOTOMETRIC) != _YCBCR
    if plain and not tiled and len(lengths) and lengths.sum() < int(pixels * bytes_per_pixel):
        raise DecodeError(Reason.TRUNCATED, "tiff: less image data than the size asks for")
    check_memory(pixels, bytes_per_pixel)


def _range(tags: Tags, bits: int, kind: int, photometric: int) -> Range | None:
    """None for 8 bits and less, whose scale nobody doubts, and for Lab, which has its own."""
    if photometric in (_PALETTE, _LAB) or (bits <= 8 and kind == _UNSIGNED):
        return None
    low, high = (_first(tags, names) for names in (_LOW, _HIGH))
    return Range(low if low is not None and low < 0 else 0.0, high)


def _first(tags: Tags, names: tuple[int, ...]) -> float | None:
    for name in names:
        values = _tuple(tags.get(name, ()))
        if values:
            value = float(max(values))
            return value if np.isfinite(value) else None
    return None


def _mode(photometric: int, bits: int, kind: int, alpha: bool) -> str:
    base = _MODES[photometric] + ("A" if alpha else "")
    if bits == 1 and base == "L":
        return "1"
    return base if bits <= 8 else f"{base};{bits}{'F' if kind == _FLOAT else ''}"


def _with_pillow(single: bytes) -> Any:
    import pyvips

    with Image.open(io.BytesIO(single), formats=["TIFF"]) as image:
        # Pillow turns the picture while loading; here the caller turns it
        image.tag_v2.pop(_ORIENTATION, None)  # type: ignore[attr-defined]
        image.load()
        deep = image.mode.startswith("I")
        return pyvips.Image.new_from_array(np.asarray(image if deep else image.convert("RGB")))


def _tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _bytes(value: object) -> bytes | None:
    return value if isinstance(value, bytes) else None
