"""Pictures and parts of files of which the hostile corpus is made."""

import io
import struct
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

Rgb = NDArray[np.uint8]
SIGNATURE = b"\x89PNG\r\n\x1a\n"
END = b"\0\0\0\0IEND\xaeB`\x82"


def pixels(seed: int, width: int = 48, height: int = 32) -> Rgb:
    """A picture of which every turn, flip and wrong colour shows; no two seeds are alike."""
    random = np.random.default_rng(seed)
    colours = random.integers(20, 236, (2, 2, 3))
    rows, columns = np.arange(height) * 2 // height, np.arange(width) * 2 // width
    quadrants = colours[rows[:, None], columns[None]].astype(float)
    ramp = np.linspace(-15, 15, width)[None, :, None] + np.linspace(-5, 5, height)[:, None, None]
    return np.clip(quadrants + ramp, 0, 255).astype(np.uint8)


def image(seed: int, mode: str = "RGB", **size: int) -> Image.Image:
    return Image.fromarray(pixels(seed, **size)).convert(mode)


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def lossless(seed: int, kind: str, **options: Any) -> bytes:
    if kind == "webp":
        options = {"lossless": True, **options}
    return saved(image(seed), kind, **options)


# --- png -----------------------------------------------------------------------------------------


def chunk(kind: bytes, body: bytes = b"", crc: int = 0) -> bytes:
    """A PNG chunk; `crc` spoils its checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(
        ">I", zlib.crc32(kind + body) ^ crc
    )  # fmt: skip


def header(width: int, height: int, depth: int = 8, colour: int = 2, interlace: int = 0) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))


def png(*chunks: bytes) -> bytes:
    return b"".join([SIGNATURE, *chunks, END])


def with_chunks(data: bytes, *chunks: bytes) -> bytes:
    """A PNG with more chunks after its header."""
    return data[:33] + b"".join(chunks) + data[33:]


# --- jpeg ----------------------------------------------------------------------------------------


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def with_segments(data: bytes, *segments: bytes) -> bytes:
    """A JPEG with more segments after its first marker."""
    return data[:2] + b"".join(segments) + data[2:]


def frame_of(data: bytes) -> int:
    """Where the body of a JPEG's frame header begins."""
    return max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2")) + 4


# --- tiff ----------------------------------------------------------------------------------------


def tiff(tags: dict[int, tuple[str, Iterable[float]]], data: bytes, *, next_at: int = 0) -> bytes:
    """One directory, little-endian: tag -> (struct code, values); 273 is filled in."""
    codes = {"B": 1, "H": 3, "I": 4, "Q": 16, "f": 11, "d": 12, "b": 6, "h": 8, "i": 9}
    tags = {**tags, 273: ("I", (8,))} if 273 not in tags and 324 not in tags else tags
    body, at = b"", 8 + len(data) + (len(data) & 1)
    after = at + 2 + 12 * len(tags) + 4
    entries = b""
    for tag in sorted(tags):
        code, values = tags[tag]
        packed = b"".join(struct.pack("<" + code, value) for value in values)
        where = packed.ljust(4, b"\0")
        if len(packed) > 4:
            where, body = (
                struct.pack("<I", after + len(body)),
                body + packed + bytes(len(packed) & 1),
            )
        count = len(packed) // struct.calcsize(code)
        entries += struct.pack("<HHI", tag, codes[code], count) + where
    pad = bytes(len(data) & 1)
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", next_at)
    return b"II*\0" + struct.pack("<I", at) + data + pad + directory + body


def plain_tiff(samples: NDArray[Any], photometric: int | None = None, **more: Any) -> bytes:
    """An uncompressed TIFF of [H, W] or [H, W, bands]; `more` is tag{number}=(code, values)."""
    bands = 1 if samples.ndim == 2 else samples.shape[2]
    kind = {"u": 1, "i": 2, "f": 3, "c": 6}[samples.dtype.kind]
    tags: dict[int, tuple[str, Any]] = {
        256: ("I", (samples.shape[1],)),
        257: ("I", (samples.shape[0],)),
        258: ("H", (8 * samples.dtype.itemsize,) * bands),
        262: ("H", ((1 if bands < 3 else 2) if photometric is None else photometric,)),
        277: ("H", (bands,)),
        278: ("I", (samples.shape[0],)),
        279: ("I", (samples.nbytes,)),
        339: ("H", (kind,) * bands),
    }
    tags |= {int(name.removeprefix("tag")): value for name, value in more.items()}
    return tiff(tags, samples.tobytes())


# --- gif -----------------------------------------------------------------------------------------


def gif_frames(seed: int, count: int) -> bytes:
    """A GIF of one picture, then the same frame block again and again."""
    data = saved(image(seed).quantize(16), "gif")
    start = data.rindex(b",\0\0\0\0")
    return data[:-1] + data[start:-1] * (count - 1) + b";"


# --- profiles ------------------------------------------------------------------------------------

_D50 = np.array([0.9642, 1.0, 0.8249])
PRIMARIES = {
    "srgb": ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)),
    "adobe": ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)),
    "p3": ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06)),
    "wide": ((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)),
}


def _fixed(values: Iterable[float]) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def profile(primaries: str = "", gamma: float = 2.2) -> bytes:
    """A matrix profile (v2), or a grey one where there are no primaries."""
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    tags = {b"wtpt": b"XYZ \0\0\0\0" + _fixed(_D50), b"cprt": b"text\0\0\0\0none\0\0\0\0"}
    tags[b"desc"] = b"desc\0\0\0\0" + struct.pack(">I", 2) + b"x\0" + bytes(78)
    if primaries:
        xyz = np.array([(x / y, 1, (1 - x - y) / y) for x, y in PRIMARIES[primaries]]).T
        xyz = xyz * np.linalg.solve(xyz, _D50)
        for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), xyz.T, strict=True):
            tags[name] = b"XYZ \0\0\0\0" + _fixed(column)
            tags[name[:1] + b"TRC"] = curve
    else:
        tags[b"kTRC"] = curve
    at, table, body = 132 + 12 * len(tags), b"", b""
    for name, value in tags.items():
        table += name + struct.pack(">II", at + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    head = struct.pack(">I4sI", at + len(body), b"lcms", 0x02400000)
    head += b"mntr" + (b"RGB " if primaries else b"GRAY") + b"XYZ " + bytes(12) + b"acsp"
    head = head.ljust(68, b"\0") + _fixed(_D50)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def cmyk_profile() -> bytes:
    """The press profile that libvips brings."""
    import pyvips

    found: bytes = pyvips.Operation.call("profile_load", "cmyk")
    return found


def by_littlecms(picture: Image.Image, icc: bytes) -> Rgb:
    """The same in sRGB, as littlecms computes it."""
    srgb = ImageCms.createProfile("sRGB")
    source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    turned = ImageCms.profileToProfile(
        picture, source, srgb, ImageCms.Intent.PERCEPTUAL, outputMode="RGB"
    )
    assert turned is not None
    return np.asarray(turned)
