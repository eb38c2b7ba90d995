"""PNG: every chunk that matters is checked, and only those are shown to the decoder.

Source: PNG, third edition (W3C, 2025). Text of any size, unknown chunks and what follows IEND are
left out, so that no limit of a decoder on them loses a good picture.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from kontext.data.decode.opened import Opened, exif_orientation
from kontext.data.decode.result import MAX_FRAMES, Reason, check_size
from kontext.errors import DecodeError

MAX_PROFILE = 32 << 20  # bytes of an ICC profile, unpacked
_PIECE = 1 << 20  # bytes unpacked at once
_SIGNATURE = 8
_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_READ = (*_KEPT, b"iCCP", b"eXIf", b"acTL")
_COLOURS = {0: 1, 2: 3, 3: 3, 4: 1, 6: 3}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_MODES = {0: "L", 2: "RGB", 3: "P", 4: "LA", 6: "RGBA"}


@dataclass
class _Parts:
    """What the walk over the chunks found."""

    width: int = 0
    height: int = 0
    depth: int = 0
    colour: int = 0
    interlaced: bool = False
    kept: list[bytes] = field(default_factory=list)
    packed: list[memoryview] = field(default_factory=list)  # bodies of IDAT
    seen: set[bytes] = field(default_factory=set)
    profile: bytes | None = None
    exif: bytes | None = None
    frames: int = 1
    apart: int = 0  # 1 where the picture itself is none of the frames
    controls: int = 0  # frames that are there


def open_png(data: bytes) -> Opened:
    """Check all of the file's structure. Raises DecodeError."""
    import pyvips

    parts = _walk(data)
    clean = b"".join([data[:_SIGNATURE], *parts.kept])
    alpha = parts.colour in (4, 6) or b"tRNS" in parts.seen
    mode = "1" if parts.depth == 1 and parts.colour == 0 else _MODES[parts.colour]
    wide = 2 if parts.depth == 16 else 1
    return Opened(
        read=lambda: pyvips.Image.pngload_buffer(clean, access="sequential", fail_on="error"),
        width=parts.width,
        height=parts.height,
        colours=_COLOURS[parts.colour],
        alpha=alpha,
        mode=mode + (";16" if wide == 2 else ""),
        # an interlaced picture is held as a whole
        bytes_per_pixel=wide * (_COLOURS[parts.colour] + alpha) * parts.interlaced,
        frames=parts.frames,
        orientation=exif_orientation(parts.exif),
        profile=parts.profile,
        diagnose=lambda: _check_complete(parts),
    )


def _check_complete(parts: _Parts) -> None:
    """Raise DecodeError where there is less image data than the size asks for.

    What was cut and closed again has right checksums, and the decoder only says that it failed.
    """
    bits = parts.depth * (_COLOURS[parts.colour] if parts.colour != 3 else 1)
    bits += parts.depth * (parts.colour in (4, 6))
    needed = parts.height * (-(-parts.width * bits // 8) + (not parts.interlaced))
    unpack, count = zlib.decompressobj(), 0
    try:
        for body in parts.packed:
            packed: bytes | memoryview = body
            while packed and count < needed:
                count += len(unpack.decompress(packed, _PIECE))
                packed = unpack.unconsumed_tail
    except zlib.error:
        return
    if count < needed:
        raise DecodeError(Reason.TRUNCATED, "png: less image data than the size asks for")


def _walk(data: bytes) -> _Parts:
    parts = _Parts()
    for kind, body, chunk in _chunks(data):
        if not parts.seen and kind != b"IHDR":
            raise DecodeError(Reason.CORRUPT, "png: it does not begin with a header")
        if kind[:1].isupper() and kind not in _KEPT:
            raise DecodeError(Reason.CORRUPT, f"png: unknown critical chunk {kind!r}")
        if kind == b"IHDR":
            _header(parts, body)
        elif kind == b"iCCP":
            parts.profile = _profile(body)
        elif kind == b"eXIf":
            parts.exif = bytes(body)
        elif kind == b"acTL" and len(body) == 8:
            parts.frames = max(1, min(int.from_bytes(body[:4], "big"), MAX_FRAMES))
        elif kind == b"IDAT" and b"acTL" in parts.seen and not parts.seen & {b"fcTL", b"IDAT"}:
            parts.apart = 1  # the picture that viewers without animation show is one more
        elif kind == b"fcTL":
            parts.controls += 1
        if kind == b"IDAT":
            parts.packed.append(body)
        parts.seen.add(kind)
        if kind in _KEPT:
            parts.kept.append(chunk)
    if b"IDAT" not in parts.seen:
        raise DecodeError(Reason.CORRUPT, "png: no image data")
    # whatever the header says: a frame that is not there cannot be shown
    parts.frames = max(1, min(parts.frames, parts.controls) + parts.apart)
    return parts


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, bytes]]:
    """(type, body, whole chunk) up to IEND; the checksums of those that are read are right."""
    view, at = memoryview(data), _SIGNATURE
    while True:
        if at + 8 > len(data):
            raise DecodeError(Reason.TRUNCATED, "png: it ends before its last chunk")
        (length,) = struct.unpack_from(">I", data, at)
        kind, end = data[at + 4 : at + 8], at + 12 + length
        if not kind.isalpha():
            raise DecodeError(Reason.CORRUPT, "png: a chunk has no valid type")
        body = view[at + 8 : end - 4]
        if kind == b"IHDR" and len(body) == 13:
            # before damage further on: a size that is refused needs no more of the file
            check_size(*struct.unpack_from(">II", body))
        if end > len(data):
            raise DecodeError(Reason.TRUNCATED, "png: it ends inside a chunk")
        if kind in _READ or kind[:1].isupper():
            (expected,) = struct.unpack_from(">I", data, end - 4)
            if zlib.crc32(view[at + 4 : end - 4]) != expected:
                raise DecodeError(Reason.CORRUPT, f"png: wrong checksum of {kind.decode()}")
        yield kind, body, data[at:end] if kind in _KEPT else b""
        if kind == b"IEND":
            return
        at = end


def _header(parts: _Parts, body: memoryview) -> None:
    if len(body) != 13 or b"IHDR" in parts.seen:
        raise DecodeError(Reason.CORRUPT, "png: the header is not one of 13 bytes")
    parts.width, parts.height, parts.depth, parts.colour, packing, filters, interlace = (
        struct.unpack(">IIBBBBB", body)
    )
    if parts.depth not in _DEPTHS.get(parts.colour, ()) or packing or filters or interlace > 1:
        raise DecodeError(Reason.CORRUPT, "png: the header makes no sense")
    parts.interlaced = bool(interlace)


def _profile(body: memoryview) -> bytes:
    """The ICC profile; empty where it cannot be unpacked."""
    name, _, packed = bytes(body).partition(b"\0")
    try:
        unpack = zlib.decompressobj()
        profile = unpack.decompress(packed[1:], MAX_PROFILE)
    except zlib.error:
        return b""
    return profile if unpack.eof and name else b""
