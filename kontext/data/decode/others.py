"""GIF, WebP, BMP, PPM, AVIF and HEIC: what their headers say, and how they are read."""

import io
import re
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from kontext.data.decode.opened import Opened, Range, exif_orientation
from kontext.data.decode.result import MAX_FRAMES, Reason, check_size
from kontext.errors import DecodeError

_MAX_BLOCKS = 2_000_000  # of a GIF: 64 MiB of the usual 255 bytes are 260,000
_BMP_HEADER = 26  # bytes of the oldest one, and the shortest
_MAX_PLAIN_BYTES = 16 << 20  # of a PPM in decimal digits, which are read slowly


# --- gif -----------------------------------------------------------------------------------------


def open_gif(data: bytes) -> Opened:
    """The first frame alone, whatever follows it. Raises DecodeError."""
    import pyvips

    if len(data) < 13:
        raise DecodeError(Reason.TRUNCATED, "gif: the header ends early")
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    check_size(width, height)
    first, frames = _gif_frames(data, 13 + _table(flags))
    single = data[:first] + b";"
    return Opened(
        read=lambda: pyvips.Image.gifload_buffer(single, access="sequential", fail_on="error"),
        width=width,
        height=height,
        colours=3,
        alpha=True,  # a frame may leave a part of the canvas untouched
        mode="P",
        bytes_per_pixel=8,
        frames=frames,
    )


def _table(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _gif_frames(data: bytes, at: int) -> tuple[int, int]:
    """(end of the first frame, number of frames, counted up to MAX_FRAMES)."""
    first, frames, budget = 0, 0, _MAX_BLOCKS
    while at < len(data) and frames < MAX_FRAMES:
        kind = data[at]
        if kind == 0x21:
            at += 2
        elif kind == 0x2C and at + 10 <= len(data):
            at += 11 + _table(data[at + 9])
        elif kind == 0x3B or first:
            break  # the trailer; behind a first picture anything may follow
        else:
            raise DecodeError(Reason.CORRUPT, "gif: neither a picture nor an extension")
        while at < len(data) and data[at] and budget:
            at, budget = at + data[at] + 1, budget - 1
        if not budget and not first:
            raise DecodeError(Reason.RESOURCE, f"gif: more than {_MAX_BLOCKS:,} blocks")
        if at >= len(data) or not budget:
            break
        at += 1
        if kind == 0x2C:
            frames, first = frames + 1, first or at
    if not first:
        raise DecodeError(Reason.TRUNCATED, "gif: it ends before its first picture does")
    if frames == 1 and at >= len(data):
        raise DecodeError(Reason.TRUNCATED, "gif: it ends without a trailer")
    return first, frames


# --- webp ----------------------------------------------------------------------------------------


def open_webp(data: bytes) -> Opened:
    """Canvas size from the header, because opening allocates the canvas. Raises DecodeError."""
    import pyvips

    width, height = _webp_size(data)
    check_size(width, height)
    if len(data) < struct.unpack_from("<I", data, 4)[0] + 8:
        raise DecodeError(Reason.TRUNCATED, "webp: the file ends early")

    def read() -> Any:
        return pyvips.Image.webpload_buffer(data, access="sequential", fail_on="error")

    header = read()
    fields = header.get_fields()
    frames = header.get("n-pages") if "n-pages" in fields else 1
    exif, profile = (
        bytes(header.get(name)) if name in fields else None
        for name in ("exif-data", "icc-profile-data")
    )
    alpha = header.bands == 4
    return Opened(
        read=read,
        width=header.width,
        height=header.height,
        colours=3,
        alpha=alpha,
        mode="RGBA" if alpha else "RGB",
        bytes_per_pixel=8,
        frames=min(frames, MAX_FRAMES),
        orientation=exif_orientation(exif),
        profile=profile,
    )


def _webp_size(data: bytes) -> tuple[int, int]:
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


# --- what Pillow reads ---------------------------------------------------------------------------


def open_bmp(data: bytes) -> Opened:
    """Raises DecodeError."""
    if len(data) < _BMP_HEADER:
        raise DecodeError(Reason.TRUNCATED, "bmp: the header ends early")
    return _with_pillow(data, "BMP")


def open_ppm(data: bytes) -> Opened:
    """Raises DecodeError."""
    if re.match(rb"P[1-3]", data) and len(data) > _MAX_PLAIN_BYTES:
        raise DecodeError(Reason.RESOURCE, f"ppm: {len(data):,} bytes of decimal digits")
    return _with_pillow(data, "PPM")


def open_avif(data: bytes) -> Opened:
    """Raises DecodeError."""
    _check_boxes(data, "avif")
    return _with_pillow(data, "AVIF")


def open_heic(data: bytes) -> Opened:
    """Raises DecodeError, also where the library for HEIC is not installed."""
    try:
        import pillow_heif
    except ModuleNotFoundError as error:
        hint = "heic: install pillow-heif (pip install 'kontext[heic]')"
        raise DecodeError(Reason.HEIC_NEEDS_LIBRARY, hint) from error

    pillow_heif.register_heif_opener(thumbnails=False)
    _check_boxes(data, "heic")
    return _with_pillow(data, "HEIF")


def _check_boxes(data: bytes, kind: str) -> None:
    """The boxes of an ISO base media file fill it, or it was cut (ISO/IEC 14496-12)."""
    at, names = 0, set()
    while at + 8 <= len(data):
        size, head = int.from_bytes(data[at : at + 4], "big"), 8
        names.add(data[at + 4 : at + 8])
        if size == 1:
            size, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        if size == 0:
            return
        if size < head:
            raise DecodeError(Reason.CORRUPT, f"{kind}: a box without length")
        at += size
    if at > len(data) or b"meta" not in names:
        raise DecodeError(Reason.TRUNCATED, f"{kind}: it ends early")


def _with_pillow(data: bytes, plugin: str) -> Opened:
    with Image.open(io.BytesIO(data), formats=[plugin]) as image:
        width, height = image.size
        check_size(width, height)
        mode, transparent = image.mode, "transparency" in image.info
        target = _target(mode, transparent)
        frames = getattr(image, "n_frames", 1) if plugin in ("AVIF", "HEIF") else 1
        profile = image.info.get("icc_profile")
        exif = image.info.get("exif")
    return Opened(
        read=_reader(data, plugin, target),
        width=width,
        height=height,
        colours={"L": 1, "LA": 1, "CMYK": 4, "I": 1, "F": 1}.get(target, 3),
        alpha=target in ("LA", "RGBA"),
        mode={"I": "L;16", "I;16": "L;16", "F": "L;32F"}.get(mode, mode),
        bytes_per_pixel=12,
        frames=min(int(frames), MAX_FRAMES),
        # libheif turns the picture by its own properties, and EXIF's tag then says what was done
        orientation=1 if plugin == "HEIF" else exif_orientation(exif),
        profile=profile or None,
        range=Range(0, 65535) if target == "I" else Range() if target == "F" else None,
    )


def _target(mode: str, transparent: bool) -> str:
    """The mode in which a picture is taken from Pillow."""
    if mode.startswith("I"):
        return "I"
    if mode == "1":
        return "L"
    if transparent or mode in ("RGBA", "PA", "RGBa"):
        return "RGBA"
    if mode in ("P", "RGBX"):
        return "RGB"
    if mode in ("L", "LA", "RGB", "CMYK", "F"):
        return mode
    raise DecodeError(Reason.UNSUPPORTED_MODE, f"pixel mode {mode}")


def _reader(data: bytes, plugin: str, target: str) -> Callable[[], Any]:
    def read() -> Any:
        import pyvips

        with Image.open(io.BytesIO(data), formats=[plugin]) as image:
            image.load()
            if target == "I":  # 16 bits are what formats that Pillow reads so have at most
                return pyvips.Image.new_from_array(np.asarray(image).astype(np.uint16))
            same = image if image.mode == target else image.convert(target)
            return pyvips.Image.new_from_array(np.asarray(same))

    return read
