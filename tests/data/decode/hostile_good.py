"""Good pictures that a careless reader loses, turns or recolours: name, bytes, right pixels."""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, product
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from tests.data.decode.hostile_parts import (
    PRIMARIES,
    Rgb,
    by_littlecms,
    chunk,
    cmyk_profile,
    image,
    lossless,
    pixels,
    plain_tiff,
    profile,
    saved,
    segment,
    with_chunks,
    with_segments,
)

FINE = {"quality": 95, "subsampling": 0}


@dataclass(frozen=True)
class Good:
    """A file that has to be kept."""

    name: str
    data: bytes
    rgb: Rgb
    within: int = 2  # of 255


def good_files() -> Iterator[Good]:
    """All of them, in one order."""
    kinds = (_turned, _deep, _profiles, _cmyk, _palettes, _alpha, _misnamed, _metadata,
             _polyglots, _many_pictures, _odd_names)  # fmt: skip
    for place, made in enumerate(kinds):
        yield from made(count(1_000 + 1_000 * place))


def as_pillow(data: bytes) -> Rgb:
    """Pixels as Pillow decodes them."""
    with Image.open(io.BytesIO(data)) as opened:
        return np.asarray(opened.convert("RGB"))


def _turned(seeds: Iterator[int]) -> Iterator[Good]:
    for kind, orientation in product(("jpeg", "png", "webp", "tiff"), range(1, 9)):
        seed, exif = next(seeds), Image.Exif()
        exif[0x0112] = orientation
        options: dict[str, Any] = FINE if kind == "jpeg" else {}
        upright = Image.fromarray(as_pillow(lossless(seed, kind, **options)))
        upright.getexif()[0x0112] = orientation
        right = np.asarray(ImageOps.exif_transpose(upright))
        data = lossless(seed, kind, exif=exif, **options)
        yield Good(f"turned/{kind}-{orientation}.{kind}", data, right)


def _deep(seeds: Iterator[int]) -> Iterator[Good]:
    """16 bits and floats, grey and colour, with alpha and without, in both byte orders."""
    for kind, bands in product(("png", "tiff", "tiff-float", "ppm"), (1, 3, 4)):
        if (kind, bands) == ("ppm", 4):
            continue
        rgb = pixels(next(seeds))
        wide = rgb.astype(np.uint16) * 257 + np.arange(48, dtype=np.uint16)[:, None]
        if bands == 4:
            wide = np.dstack([wide, np.full(wide.shape[:2], 65535, np.uint16)])
        right = np.rint(wide[..., :3] / 257).astype(np.uint8)
        if bands == 1:
            wide = wide[..., 0]
            right = np.repeat(right[..., :1], 3, axis=2)
        yield Good(f"deep/{kind}-{bands}.{kind[:4]}", _wide(wide, kind), right)
    seed = next(seeds)
    stated = (pixels(seed, width=40)[..., 0].astype(np.uint16)) * 16 + 7
    right = np.repeat(np.rint(stated / 4095 * 255).astype(np.uint8)[..., None], 3, axis=2)
    for tag in ("tag281", "tag341"):
        shifted = np.roll(stated, int(tag[3:]), axis=1)
        data = plain_tiff(shifted, **{tag: ("H", (4095,))})
        yield Good(f"deep/12-{tag}.tif", data, np.roll(right, int(tag[3:]), axis=1))


def _wide(wide: Any, kind: str) -> bytes:
    if kind == "tiff-float":
        return plain_tiff((wide / 65535).astype(np.float32))
    if kind == "tiff":
        return plain_tiff(wide, **({"tag338": ("H", (2,))} if wide.shape[2:] == (4,) else {}))
    height, width = wide.shape[:2]
    big = wide.astype(">u2").tobytes()
    if kind == "ppm":
        return b"P%d %d %d 65535\n" % (5 if wide.ndim == 2 else 6, width, height) + big
    colour = {(): 0, (3,): 2, (4,): 6}[wide.shape[2:]]
    rows = np.frombuffer(big, np.uint8).reshape(height, -1)
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", packed) + chunk(b"IEND")


def _profiles(seeds: Iterator[int]) -> Iterator[Good]:
    """Colours and greys in spaces of other primaries and curves, against littlecms."""
    for name, gamma in product(PRIMARIES, (1.0, 1.8, 2.2)):
        icc = profile(name, gamma)
        for kind in ("png", "tiff", "webp", "jpeg"):
            seed = next(seeds)
            options: dict[str, Any] = FINE if kind == "jpeg" else {}
            data = lossless(seed, kind, icc_profile=icc, **options)
            right = by_littlecms(Image.fromarray(as_pillow(data)), icc)
            yield Good(f"icc/{name}-{gamma}.{kind}", data, right)
    for gamma, kind in product((1.0, 1.8, 2.4), ("png", "tiff", "jpeg")):
        icc, grey = profile("", gamma), image(next(seeds), "L")
        options = FINE if kind == "jpeg" else {}
        data = saved(grey, kind, icc_profile=icc, **options)
        with Image.open(io.BytesIO(data)) as opened:
            yield Good(f"icc/grey-{gamma}.{kind}", data, by_littlecms(opened.copy(), icc))


def _cmyk(seeds: Iterator[int]) -> Iterator[Good]:
    """Inks, with the press's profile and without, as JPEG (inverted, as Adobe writes) and TIFF."""
    press = cmyk_profile()
    for kind, tagged, number in product(("jpeg", "tiff"), (False, True), range(4)):
        inks = _inks(next(seeds), number)
        options: dict[str, Any] = FINE if kind == "jpeg" else {}
        if tagged:
            options = {**options, "icc_profile": press}
        data = saved(inks, kind, **options)
        with Image.open(io.BytesIO(data)) as opened:
            right = by_littlecms(opened.copy(), press) if tagged else np.asarray(
                opened.convert("RGB"))  # fmt: skip
        yield Good(f"cmyk/{number}{'-icc' * tagged}.{kind}", data, right)
    wide = np.asarray(_inks(next(seeds), 0)).astype(np.uint16) * 257
    paper = 65535.0 - wide
    right = np.rint(paper[..., :3] * paper[..., 3:] / 65535**2 * 255).astype(np.uint8)
    yield Good("cmyk/16.tif", plain_tiff(wide, 5), right)


def _inks(seed: int, number: int) -> Image.Image:
    inks = 255 - pixels(seed).astype(int)
    black = np.full((*inks.shape[:2], 1), 25 * number)
    return Image.fromarray(np.dstack([inks, black]).astype(np.uint8), "CMYK")


def _palettes(seeds: Iterator[int]) -> Iterator[Good]:
    for kind, colours in product(("png", "gif", "bmp", "tiff"), (2, 4, 13, 200)):
        picture = image(next(seeds), width=56).quantize(colours)
        yield Good(f"palette/{colours}.{kind}", saved(picture, kind),
                   np.asarray(picture.convert("RGB")))  # fmt: skip
    for kind in ("png", "tiff", "bmp", "ppm"):
        lines = image(next(seeds), "L", width=56).point(lambda v: 255 * (v > 120)).convert("1")
        lines.putpixel((0, 0), 255 * (len(kind) % 2))
        marked = np.asarray(lines).copy()
        marked[3:9, 3 : 9 + len(kind) + ord(kind[0]) % 7] ^= True
        data = saved(Image.fromarray(marked), kind)
        yield Good(f"palette/1bit.{kind}", data, np.repeat(
            marked[..., None] * np.uint8(255), 3, axis=2))  # fmt: skip


def _alpha(seeds: Iterator[int]) -> Iterator[Good]:
    """Transparency over white."""
    for kind, mode, number in product(("png", "webp", "tiff"), ("RGBA", "LA"), range(2)):
        if (kind, mode) == ("webp", "LA"):
            continue
        rgb = pixels(next(seeds), width=40)
        alpha = np.tile(np.linspace(0, 255, 40).astype(np.uint8), (32, 1))
        alpha = alpha if number else np.flipud(np.where(alpha > 90, 255, 0).astype(np.uint8))
        picture = Image.fromarray(np.dstack([rgb, alpha])).convert(mode)
        over = Image.new("RGBA", picture.size, "white")
        over.alpha_composite(picture.convert("RGBA"))
        options: dict[str, Any] = {"lossless": True, "exact": True} if kind == "webp" else {}
        data = saved(picture, kind, **options)
        yield Good(f"alpha/{mode}-{number}.{kind}", data, np.asarray(over.convert("RGB")))


def _misnamed(seeds: Iterator[int]) -> Iterator[Good]:
    """The name says one thing, the bytes another, or the name says nothing."""
    kinds = {"png": "png", "webp": "webp", "tiff": "tif", "bmp": "bmp", "ppm": "ppm", "gif": "gif"}
    for kind, name in product(kinds, ("jpg", "png", "gif", "heic", "txt", "exe", "")):
        if kinds[kind] != name:
            seed = next(seeds)
            data = lossless(seed, kind)
            yield Good(f"misnamed/{kind}{'.' * bool(name)}{name}", data, as_pillow(data))


def _metadata(seeds: Iterator[int]) -> Iterator[Good]:
    """Broken, huge and lying metadata: none may lose a picture."""
    exifs = {
        "garbage": b"Exif\0\0II*\0\xff\xff\xff\xffgarbage",
        "short": b"Exif\0\0I",
        "loop": b"Exif\0\0II*\0\x08\0\0\0\0\0\x08\0\0\0",
        "entries": b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(60),
        "long": b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x112, 3, 1 << 31, 26),
        "nine": b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x112, 3, 1, 9) + bytes(4),
        "text": b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI4s", 0x112, 2, 4, b"six\0"),
    }
    profiles = {
        "none": b"",
        "words": b"not a profile",
        "cut": profile("adobe")[:200],
        "tags": profile("p3")[:128] + struct.pack(">I", 1 << 20) + profile("p3")[132:],
        "cmyk": cmyk_profile()[:60_000],
        "zeros": bytes(600),
    }
    xmp = (
        b"http://ns.adobe.com/xap/1.0/\0<?xpacket begin='\xff\xfe'?><x:xmpmeta><<<&&" + b"<a>" * 999
    )
    for name, exif in exifs.items():
        seed = next(seeds)
        plain = lossless(seed, "jpeg", **FINE)
        yield Good(f"meta/exif-{name}.jpg", with_segments(plain, segment(0xE1, exif)),
                   as_pillow(plain))  # fmt: skip
        png = lossless(next(seeds), "png")
        yield Good(f"meta/exif-{name}.png", with_chunks(png, chunk(b"eXIf", exif[6:])),
                   as_pillow(png))  # fmt: skip
    for name, icc in profiles.items():
        plain = lossless(next(seeds), "jpeg", **FINE)
        body = b"ICC_PROFILE\0\x01\x01" + icc[:60_000]
        yield Good(f"meta/icc-{name}.jpg", with_segments(plain, segment(0xE2, body)),
                   as_pillow(plain))  # fmt: skip
        png = lossless(next(seeds), "png")
        packed = chunk(b"iCCP", b"x\0\0" + zlib.compress(icc))
        yield Good(f"meta/icc-{name}.png", with_chunks(png, packed), as_pillow(png))
    yield from _large_metadata(xmp, seeds)


def _large_metadata(xmp: bytes, seeds: Iterator[int]) -> Iterator[Good]:
    plain = lossless(next(seeds), "jpeg", **FINE)
    yield Good("meta/xmp.jpg", with_segments(plain, segment(0xE1, xmp)), as_pillow(plain))
    plain = lossless(next(seeds), "jpeg", **FINE)
    comments = [segment(0xFE, b"x" * 60_000)] * 200
    yield Good("meta/12-mb-of-comments.jpg", with_segments(plain, *comments), as_pillow(plain))
    bomb = zlib.compress(bytes(300 << 20), 9)
    texts = {
        "itxt": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
        "bomb": chunk(b"zTXt", b"Comment\0\0" + bomb),
        "bomb-profile": chunk(b"iCCP", b"x\0\0" + bomb),
        "bad-crc": chunk(b"tEXt", b"Comment\0x", crc=1),
        "lower": chunk(b"abCd", bytes(5_000)),
        "many": chunk(b"tEXt", b"a\0b") * 20_000,
        "apng-lie": chunk(b"acTL", struct.pack(">II", 1 << 31, 0)),
        "gamma": chunk(b"gAMA", struct.pack(">I", 0)),
        "chroma": chunk(b"cHRM", b"\xff" * 32),
        "size": chunk(b"pHYs", b"\xff" * 9),
    }
    for name, more in texts.items():
        png = lossless(next(seeds), "png")
        yield Good(f"meta/{name}.png", with_chunks(png, more), as_pillow(png))


def _polyglots(seeds: Iterator[int]) -> Iterator[Good]:
    """Pictures that are something else as well."""
    archive = b"PK\x03\x04" + bytes(26) + b"PK\x05\x06" + bytes(18)
    others = {
        "zip": archive,
        "html": b"<html><script>alert(1)</script>",
        "pdf": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\ntrailer<<>>\n%%EOF",
        "jpeg": lossless(1, "jpeg"),
        "png": lossless(2, "png"),
        "tail": bytes(100_000),
        "php": b"<?php system($_GET['c']); ?>",
    }
    for name, other in others.items():
        for kind in ("png", "jpeg", "gif", "bmp", "tiff"):
            options: dict[str, Any] = FINE if kind == "jpeg" else {}
            plain = lossless(next(seeds), kind, **options)
            yield Good(f"polyglot/{kind}-then-{name}.{kind}", plain + other, as_pillow(plain))
        plain = lossless(next(seeds), "jpeg", **FINE)
        inside = with_segments(plain, segment(0xFE, other[:60_000]))
        yield Good(f"polyglot/{name}-in-jpeg.jpg", inside, as_pillow(plain))
        png = lossless(next(seeds), "png")
        yield Good(f"polyglot/{name}-in-png.png", with_chunks(png, chunk(b"prVt", other)),
                   as_pillow(png))  # fmt: skip


def _many_pictures(seeds: Iterator[int]) -> Iterator[Good]:
    """Animations and books: the first picture, however many follow."""
    for kind in ("gif", "webp", "png", "tiff"):
        frames = [image(next(seeds)) for _ in range(3)]
        options: dict[str, Any] = {"lossless": True} if kind == "webp" else {}
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        yield Good(f"many/three.{kind}", data, as_pillow(data))
    rgb = pixels(next(seeds))
    circle = bytearray(plain_tiff(rgb))
    (first,) = struct.unpack_from("<I", circle, 4)
    (entries,) = struct.unpack_from("<H", circle, first)
    struct.pack_into("<I", circle, first + 2 + 12 * entries, first)
    yield Good("many/circle-of-pages.tif", bytes(circle), rgb)


def _odd_names(seeds: Iterator[int]) -> Iterator[Good]:
    names = (
        "a b", "-rf", "--help", "$(reboot)", "`id`", "a;b", "a'b", 'a"b', "a\nb", "a\tb", "a\\b",
        "%s%n", "{0}{x}", "{{{", "a*b?", "[a]", "CON", "nul", "cafe\u0301", "caf\u00e9",
        "\u202egnp", "\U0001f600", "\u65e5\u672c", "\ufeff", "a\u200b", "a__b=", "__", "=", "~",
        "a__k=v__k=w",
        "x" * 240, "\u00e9" * 120, "a#b", "a&b=c", "<b>", "\x7f", "\x01", " ", "a.png.", "a..",
    )  # fmt: skip
    for number, name in enumerate(names):
        rgb = pixels(next(seeds))
        yield Good(f"names/{number:02d}/{name}.png", saved(Image.fromarray(rgb), "png"), rgb)
