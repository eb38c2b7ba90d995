"""JPEG: the markers are walked before decoding, the decoder's warnings are read after it.

Source: ITU-T T.81. libjpeg fills what is missing with grey and only warns, so a file that was cut
and closed with an end marker decodes. Its warnings say so, and the scans' headers say whether a
progressive file has all of its scans.
"""

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from PIL import TiffImagePlugin

from kontext.data.decode.opened import Opened, exif_orientation
from kontext.data.decode.problems import PARSER_ERRORS
from kontext.data.decode.result import MAX_FRAMES, Reason, check_size
from kontext.errors import DecodeError

MAX_SCANS = 64  # libjpeg's own script has 10; each one costs a pass over the picture
_MODES = {1: "L", 3: "RGB", 4: "CMYK"}
_BASELINE, _PROGRESSIVE = (0xC0, 0xC1), 0xC2
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset((0x01, *range(0xD0, 0xD9)))  # markers without a length
# the end of coded data: a marker that is neither a stuffed zero, a fill byte nor a restart
_NEXT = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_DAMAGE = re.compile(r"bad Huffman code|bad arithmetic code|instead of RST|Inconsistent progress")
_LOST = re.compile(r"(\d+) extraneous bytes before marker 0xd[0-7]")
_PADDING = 8  # bytes some cameras write before a restart marker


@dataclass
class _Parts:
    """What the walk over the markers found."""

    width: int = 0
    height: int = 0
    kind: int = 0
    components: tuple[int, ...] = ()
    scans: int = 0
    # (component, coefficient) -> bits still missing; absent: never sent
    missing: dict[tuple[int, int], int] = field(default_factory=dict)
    exif: bytes | None = None
    profile: dict[int, bytes] = field(default_factory=dict)
    frames: int = 1


def open_jpeg(data: bytes) -> Opened:
    """Check all of the file's structure. Raises DecodeError."""
    import pyvips

    parts = _walk(data)
    if not parts.kind or not parts.scans:
        raise DecodeError(Reason.TRUNCATED, "jpeg: it ends before its picture")
    _check_complete(parts)
    whole = parts.kind == _PROGRESSIVE or parts.scans > 1
    return Opened(
        read=lambda: pyvips.Image.jpegload_buffer(data, access="sequential", fail_on="error"),
        width=parts.width,
        height=parts.height,
        colours=len(parts.components),
        alpha=False,
        mode=_MODES[len(parts.components)],
        # the coefficients of all scans are held as a whole, 2 bytes each
        bytes_per_pixel=2 * len(parts.components) * whole,
        frames=parts.frames,
        orientation=exif_orientation(parts.exif),
        profile=b"".join(parts.profile[n] for n in sorted(parts.profile)) or None,
    )


def check_warnings(text: str) -> None:
    """Raise DecodeError for what libjpeg only warns of, though picture is lost."""
    if "premature end" in text.lower():
        raise DecodeError(Reason.TRUNCATED, "jpeg: the coded data ends before the picture does")
    damage = _DAMAGE.search(text)
    lost = any(int(found.group(1)) > _PADDING for found in _LOST.finditer(text))
    if damage or lost:
        what = damage.group() if damage else "bytes without meaning inside the picture"
        raise DecodeError(Reason.CORRUPT, f"jpeg: {what}")


def _walk(data: bytes) -> _Parts:
    parts = _Parts()
    for marker, body in _segments(data):
        if marker in _FRAMES:
            _frame(parts, marker, body)
        elif marker == 0xDA:
            _scan(parts, body)
        elif marker == 0xE1 and body.startswith(b"Exif\0\0") and parts.exif is None:
            parts.exif = body
        elif marker == 0xE2 and body.startswith(b"ICC_PROFILE\0") and len(body) > 14:
            parts.profile.setdefault(body[12], body[14:])
        elif marker == 0xE2 and body.startswith(b"MPF\0"):
            parts.frames = _pictures(body[4:])
    return parts


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, body) up to the end of the first picture."""
    at = 2
    while found := _NEXT.search(data, at):
        marker, at = data[found.end() - 1], found.end()
        if marker == 0xD9:
            return
        if marker in _ALONE:
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        if length < 2:
            raise DecodeError(Reason.CORRUPT, "jpeg: a segment without length")
        if at + length > len(data):
            raise DecodeError(Reason.TRUNCATED, "jpeg: it ends inside a segment")
        yield marker, data[at + 2 : at + length]
        at += length
    raise DecodeError(Reason.TRUNCATED, "jpeg: it has no end")


def _frame(parts: _Parts, marker: int, body: bytes) -> None:
    if parts.kind:
        raise DecodeError(Reason.CORRUPT, "jpeg: two pictures in one")
    if len(body) < 6 or len(body) < 6 + 3 * body[5]:
        raise DecodeError(Reason.CORRUPT, "jpeg: the header is too short")
    precision, parts.height, parts.width, count = struct.unpack_from(">BHHB", body)
    check_size(parts.width, parts.height)
    if marker not in (*_BASELINE, _PROGRESSIVE) or precision != 8 or count not in _MODES:
        what = f"process {marker - 0xC0}, {precision} bits, {count} components"
        raise DecodeError(Reason.UNSUPPORTED_MODE, f"jpeg: {what}")
    parts.kind = marker
    parts.components = tuple(body[6 + 3 * n] for n in range(count))


def _scan(parts: _Parts, body: bytes) -> None:
    parts.scans += 1
    if parts.scans > MAX_SCANS:
        raise DecodeError(Reason.RESOURCE, f"jpeg: more than {MAX_SCANS} scans")
    count = body[0] if body else 0
    if len(body) < 4 + 2 * count or not parts.kind:
        raise DecodeError(Reason.CORRUPT, "jpeg: a scan's header is broken")
    start, end, approximation = body[1 + 2 * count : 4 + 2 * count]
    if parts.kind != _PROGRESSIVE:
        start, end, approximation = 0, 63, 0
    for n in range(count):
        for coefficient in range(start, min(end, 63) + 1):
            parts.missing[body[1 + 2 * n], coefficient] = approximation & 15


def _check_complete(parts: _Parts) -> None:
    for component in parts.components:
        if any(parts.missing.get((component, n), 1) for n in range(64)):
            raise DecodeError(Reason.TRUNCATED, "jpeg: its last scans are missing")


def later_jpegs(data: bytes, most: int) -> Iterator[bytes]:
    """The pictures that a Multi-Picture Format index names behind the first, at most `most`.

    Whoever copies one often leaves them out, index or not: where no JPEG begins there is none.
    """
    for marker, body in _segments(data):
        if marker == 0xE2 and body.startswith(b"MPF\0"):
            tags = _index(body[4:])
            entries, start = tags.get(0xB002, b""), data.index(body) + 4
            order = "<" if body[4:6] == b"II" else ">"
            for at in range(16, min(len(entries), 16 * most), 16):
                (offset,) = struct.unpack_from(order + "I", entries, at + 8)
                part = data[start + offset :] if offset else b""
                if part.startswith(b"\xff\xd8\xff"):
                    yield part
            return


def _pictures(index: bytes) -> int:
    """Number of pictures in a Multi-Picture Format index (CIPA DC-007); 1 where it is broken."""
    try:
        return max(1, min(int(_index(index).get(0xB001, 1)), MAX_FRAMES))
    except PARSER_ERRORS:
        return 1


def _index(index: bytes) -> TiffImagePlugin.ImageFileDirectory_v2:
    tags = TiffImagePlugin.ImageFileDirectory_v2(index[:8])
    file = io.BytesIO(index)
    file.seek(tags.next)
    tags.load(file)
    return tags
