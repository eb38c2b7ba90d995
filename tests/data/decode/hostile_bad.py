"""Files that may not be kept: name, bytes, and the reason that has to be recorded."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, product

import numpy as np
from PIL import Image

from kontext.data.decode.result import Reason
from tests.data.decode.hostile_parts import (
    END,
    SIGNATURE,
    chunk,
    frame_of,
    gif_frames,
    header,
    image,
    lossless,
    pixels,
    plain_tiff,
    png,
    saved,
    segment,
    tiff,
    with_segments,
)


@dataclass(frozen=True)
class Bad:
    """A file that has to be refused."""

    name: str
    data: bytes
    reason: str


def bad_files() -> Iterator[Bad]:
    """All of them, in one order."""
    kinds = (_foreign, _svg, _sizes, _bombs, _cut, _damaged_png, _damaged_jpeg, _damaged_others,
             _modes, _ranges, _costly, _blank, _many)  # fmt: skip
    for place, made in enumerate(kinds):
        yield from made(count(50_000 + 1_000 * place))


def _foreign(seeds: Iterator[int]) -> Iterator[Bad]:
    """What is no picture that we read, under names that say so or not."""
    box = struct.pack(">I", 24) + b"ftypisom\0\0\2\0isommp41"
    foreign = {
        "text": b"hello, this is text",
        "html": b"<!DOCTYPE html><html><body><img src=x onerror=alert(1)></body></html>",
        "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + bytes(99),
        "zip": b"PK\x03\x04" + bytes(60),
        "gzip-bomb": b"\x1f\x8b\x08\0\0\0\0\0\0\3" + zlib.compress(bytes(20 << 20))[2:-4],
        "tar-bomb": b"a.png".ljust(124, b"\0") + b"77777777777\0" + bytes(120) + b"ustar\0" + b"00",
        "elf": b"\x7fELF\2\1\1" + bytes(60),
        "mp4": box + bytes(200),
        "psd": b"8BPS\0\1" + bytes(60),
        "ico": b"\0\0\1\0\1\0" + bytes(60),
        "jp2": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(60),
        "jxl": b"\xff\x0a" + bytes(60),
        "avi": b"RIFF\xff\0\0\0AVI LIST" + bytes(60),
        "exr": b"v/1\1" + bytes(60),
        "zeros": bytes(5_000),
        "noise": np.random.default_rng(5).integers(0, 255, 900, np.uint8).tobytes(),
        "pam": b"P7\nWIDTH 9\nHEIGHT 9\nENDHDR\n" + bytes(81),
        "almost-png": SIGNATURE[:7],
        "mangled-png": b"\x89PNG\n\x1a\n" + bytes(60),  # as a text transfer makes it
        "jpeg-later": b"\n" + lossless(3, "jpeg"),
    }
    for name, data in foreign.items():
        for suffix in (".png", ".jpg", ".dat"):
            yield Bad(f"foreign/{name}{suffix}", data + suffix.encode(), Reason.UNSUPPORTED_FORMAT)
    for suffix in ("png", "jpg", "webp", "txt", "tar"):
        yield Bad(f"empty.{suffix}", b"", Reason.EMPTY)


def _svg(seeds: Iterator[int]) -> Iterator[Bad]:
    space = b"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'>"
    laughs = b"".join(
        b"<g id='g%d'>%s</g>" % (n, b"<use href='#g%d'/>" % (n - 1) * 10) for n in range(1, 12)
    )
    entities = b"<!DOCTYPE svg [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;'>]>"
    bodies = {
        "plain": space + b"<circle r='9'/></svg>",
        "laughs": space + b"<circle id='g0' r='1'/>" + laughs + b"</svg>",
        "entities": entities + space + b"&b;</svg>",
        "external": b"<!DOCTYPE svg [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>"
        + space
        + b"&x;</svg>",
        "script": space + b"<script>alert(1)</script></svg>",
        "huge": space.replace(b"32 32", b"9e9 9e9") + b"</svg>",
        "filter": space + b"<filter id='f'><feGaussianBlur stdDeviation='9e9'/></filter></svg>",
        "deep": space + b"<g>" * 50_000,
        "remote": space + b"<image href='http://127.0.0.1/x.png'/></svg>",
    }
    for name, body in bodies.items():
        yield Bad(f"svg/{name}.svg", body, Reason.SVG_UNTRUSTED)
        yield Bad(f"svg/{name}.png", b"\xef\xbb\xbf<?xml version='1.0'?>\n" + body,
                  Reason.SVG_UNTRUSTED)  # fmt: skip


def _said(width: int, height: int) -> dict[str, bytes]:
    """Files of every format whose headers claim a size, and that hold next to nothing."""
    webp = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    webp = b"WEBPVP8X" + struct.pack("<I", 10) + webp
    jpeg = bytearray(lossless(4, "jpeg"))
    struct.pack_into(">HH", jpeg, frame_of(bytes(jpeg)) + 1, min(height, 65535), min(width, 65535))
    bmp = bytearray(lossless(4, "bmp"))
    struct.pack_into("<ii", bmp, 18, width, height)
    gif = bytearray(saved(image(4).quantize(8), "gif"))
    struct.pack_into("<HH", gif, 6, min(width, 65535), min(height, 65535))
    tags = {256: ("I", (width,)), 257: ("I", (height,)), 258: ("H", (8, 8, 8)), 262: ("H", (2,)),
            277: ("H", (3,)), 278: ("I", (height,)), 279: ("I", (16,))}  # fmt: skip
    return {
        "png": png(header(width, height), chunk(b"IDAT", zlib.compress(bytes(1 << 20)))),
        "webp": b"RIFF" + struct.pack("<I", len(webp)) + webp,
        "jpg": bytes(jpeg),
        "bmp": bytes(bmp),
        "gif": bytes(gif),
        "tif": tiff(tags, bytes(16)),
        "ppm": b"P6 %d %d 255\n" % (width, height) + bytes(48),
    }


def _sizes(seeds: Iterator[int]) -> Iterator[Bad]:
    sizes = {
        (65_535, 65_535): Reason.SIDE_TOO_LONG,
        (40_000, 9): Reason.SIDE_TOO_LONG,
        (9, 40_000): Reason.SIDE_TOO_LONG,
        (30_000, 30_000): Reason.TOO_MANY_PIXELS,
        (8_001, 8_000): Reason.TOO_MANY_PIXELS,
        (7, 100): Reason.TOO_SMALL,
        (100, 7): Reason.TOO_SMALL,
        (1, 1): Reason.TOO_SMALL,
    }
    for size, reason in sizes.items():
        for kind, data in _said(*size).items():
            # Pillow's own limit speaks first, and it knows no sides
            squared = kind in ("bmp", "ppm") and size[0] * size[1] > 2**31
            yield Bad(f"sizes/{size[0]}x{size[1]}.{kind}", data,
                      Reason.TOO_MANY_PIXELS if squared else reason)  # fmt: skip
    for kind in ("png", "jpeg", "gif", "bmp", "tiff", "webp"):  # the beacons of web pages
        beacon = saved(Image.new("RGB", (1, 1), (len(kind), 0, ord(kind[0]))), kind)
        yield Bad(f"sizes/beacon.{kind}", beacon, Reason.TOO_SMALL)


def _bombs(seeds: Iterator[int]) -> Iterator[Bad]:
    """Little to read, much to unpack."""
    line = zlib.compress(bytes(40 << 20), 9)
    yield Bad("bombs/64k.png", png(header(65_536, 65_536, 8, 6), chunk(b"IDAT", line)),
              Reason.SIDE_TOO_LONG)  # fmt: skip
    yield Bad("bombs/2g.png", png(header(2**31 - 1, 2**31 - 1), chunk(b"IDAT", line)),
              Reason.SIDE_TOO_LONG)  # fmt: skip
    wide = png(header(8_000, 8_000, 16, 6, interlace=1), chunk(b"IDAT", line))
    yield Bad("bombs/interlaced.png", wide, Reason.TRUNCATED)
    tile = {256: ("I", (64,)), 257: ("I", (64,)), 258: ("H", (8,)), 259: ("H", (8,)),
            262: ("H", (1,)), 277: ("H", (1,)), 322: ("I", (60_000,)), 323: ("I", (60_000,)),
            324: ("I", (8,)), 325: ("I", (len(line),))}  # fmt: skip
    yield Bad("bombs/tile.tif", tiff(tile, line), Reason.RESOURCE)
    floats = {256: ("I", (8_000,)), 257: ("I", (8_000,)), 258: ("H", (32,) * 3), 259: ("H", (8,)),
              262: ("H", (2,)), 277: ("H", (3,)), 278: ("I", (8_000,)), 279: ("I", (len(line),)),
              339: ("H", (3,) * 3)}  # fmt: skip
    yield Bad("bombs/floats.tif", tiff(floats, line), Reason.RESOURCE)
    blocks = bytearray(saved(image(6).quantize(8), "gif"))
    start = blocks.rindex(b",\0\0\0\0")
    never = bytes(blocks[:start]) + b"!\xfe" + b"\x01a" * 2_100_000
    yield Bad("bombs/comment-without-end.gif", never + b"\0" + bytes(blocks[start:]),
              Reason.RESOURCE)  # fmt: skip
    yield Bad("bombs/picture-without-end.gif", bytes(blocks[: start + 12]) + b"\xff" * (4 << 20),
              Reason.TRUNCATED)  # fmt: skip
    digits = b"P3 2000 2000 255\n" + b"1 " * (8_400_000)
    yield Bad("bombs/digits.ppm", digits, Reason.RESOURCE)


def _cut(seeds: Iterator[int]) -> Iterator[Bad]:
    """Files of every format that end early."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    whole = {
        "png": saved(picture, "png"),
        "jpg": saved(picture, "jpeg"),
        "progressive.jpg": saved(picture, "jpeg", progressive=True),
        "gif": saved(picture, "gif"),
        "webp": saved(picture, "webp"),
        "lossless.webp": saved(picture, "webp", lossless=True),
        "tif": saved(picture, "tiff"),
        "lzw.tif": saved(picture, "tiff", compression="tiff_lzw"),
        "bmp": saved(picture, "bmp"),
        "ppm": saved(picture, "ppm"),
        "avif": saved(picture, "avif"),
    }
    for (kind, data), share in product(whole.items(), (0.2, 0.5, 0.8, 0.97)):
        yield Bad(f"cut/{share}.{kind}", data[: int(len(data) * share)], Reason.TRUNCATED)
    for kind in ("jpg", "progressive.jpg"):
        for share in (0.3, 0.6, 0.9):
            cut = whole[kind][: int(len(whole[kind]) * share)] + b"\xff\xd9"
            yield Bad(f"cut/closed-{share}.{kind}", cut, Reason.TRUNCATED)


def _damaged_png(seeds: Iterator[int]) -> Iterator[Bad]:
    rgb = pixels(next(seeds))
    raw = b"".join(b"\0" + row.tobytes() for row in rgb)
    head, data = header(48, 32), chunk(b"IDAT", zlib.compress(raw))
    cases = {
        "crc-data": png(head, chunk(b"IDAT", zlib.compress(raw), crc=1)),
        "crc-header": png(head[:-1] + b"\0", data),
        "crc-end": SIGNATURE + head + data + END[:-1] + b"x",
        "crc-palette": png(header(48, 32, 8, 3), chunk(b"PLTE", bytes(12), crc=9), data),
        "no-data": png(head),
        "no-header": png(data),
        "two-headers": png(head, head, data),
        "critical": png(head, chunk(b"ABCD", b"?"), data),
        "type": png(head, chunk(b"\0\1\2\3", b"?"), data),
        "depth": png(header(48, 32, 5, 2), data),
        "colour": png(header(48, 32, 8, 5), data),
        "packing": png(chunk(b"IHDR", struct.pack(">IIBBBBB", 48, 32, 8, 2, 1, 0, 0)), data),
        "filtering": png(chunk(b"IHDR", struct.pack(">IIBBBBB", 48, 32, 8, 2, 0, 7, 0)), data),
        "interlace": png(header(48, 32, 8, 2, 9), data),
        "long-header": png(chunk(b"IHDR", bytes(20)), data),
        "zlib": png(head, chunk(b"IDAT", b"no zlib at all" * 9)),
        "zlib-sum": png(head, chunk(b"IDAT", zlib.compress(raw)[:-4] + b"\1\2\3\4")),
        "filter": png(head, chunk(b"IDAT", zlib.compress(b"\x09" + raw[1:]))),
        "no-palette": png(header(48, 32, 8, 3), chunk(b"IDAT", zlib.compress(bytes(49 * 32)))),
        "palette-length": png(header(48, 32, 8, 3), chunk(b"PLTE", bytes(11)), chunk(
            b"IDAT", zlib.compress(bytes(49 * 32)))),
    }  # fmt: skip
    for name, body in cases.items():
        yield Bad(f"damaged/{name}.png", body, Reason.CORRUPT)
    yield Bad("damaged/half-the-rows.png", png(head, chunk(b"IDAT", zlib.compress(
        raw[: len(raw) // 2]))), Reason.TRUNCATED)  # fmt: skip


def _damaged_jpeg(seeds: Iterator[int]) -> Iterator[Bad]:
    noise = np.random.default_rng(1).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    good = saved(Image.fromarray(noise), "jpeg", quality=90, restart_marker_blocks=4)
    frame, scan = frame_of(good), good.rindex(b"\xff\xda")
    first = scan + 2 + int.from_bytes(good[scan + 2 : scan + 4], "big")

    def patched(at: int, new: bytes) -> bytes:
        return good[:at] + new + good[at + len(new) :]

    cases = {
        "components": patched(frame + 6, b"\x01\xf2\x00\x01\xf2\x00"),
        "sampling": patched(frame + 7, b"\xff"),
        "two-frames": good[:scan] + good[frame - 4 : frame + 15] + good[scan:],
        "short-frame": good[: frame - 2] + b"\0\4" + good[frame : frame + 2] + good[scan:],
        "no-length": good[:2] + b"\xff\xe0\0\0" + good[2:],
        "no-tables": good[:2] + good[frame - 4 : frame + 15] + good[scan:],
        "scan-first": good[:2] + good[scan:first] + good[2:],
        "quantisation": good[:2] + segment(0xDB, b"\x33") + good[2:],
        "huffman": good[:2] + segment(0xC4, b"\0" + b"\xff" * 16 + bytes(9)) + good[2:],
    }  # fmt: skip
    for name, body in cases.items():
        yield Bad(f"damaged/{name}.jpg", body, Reason.CORRUPT)
    for number in range(6):
        at = first + 300 + 700 * number
        yield Bad(f"damaged/overwritten-{number}.jpg", patched(at, bytes(range(1, 250))),
                  Reason.CORRUPT)  # fmt: skip
    yield Bad("damaged/no-scan.jpg", good[:scan] + b"\xff\xd9", Reason.TRUNCATED)
    yield Bad("damaged/only-magic.jpg", b"\xff\xd8\xff", Reason.TRUNCATED)


def _damaged_others(seeds: Iterator[int]) -> Iterator[Bad]:
    rgb = pixels(next(seeds))
    gif = saved(image(next(seeds)).quantize(16), "gif")
    start = gif.rindex(b",\0\0\0\0")
    bmp, webp, avif = (lossless(next(seeds), kind) for kind in ("bmp", "webp", "avif"))
    tif, meta = plain_tiff(rgb), avif.index(b"meta")
    cases = {
        "block.gif": gif[:start] + b"\x99" + gif[start + 1 :],
        "codes.gif": gif[: start + 11] + b"\xff" * 512 + b"\0;",
        "code-size.gif": gif[: start + 10] + b"\x63" + gif[start + 11 :],
        "bits.bmp": bmp[:28] + b"\x0d\0" + bmp[30:],
        "packing.bmp": bmp[:30] + b"\x63\0\0\0" + bmp[34:],
        "header.bmp": bmp[:14] + b"\x03\0\0\0" + bmp[18:],
        "chunk.webp": webp[:12] + b"ABCD" + webp[16:],
        "data.webp": webp[:25] + bytes(len(webp) - 25),
        "data.avif": avif[:-200] + bytes(200),
        "box.avif": avif[: meta - 4] + struct.pack(">I", 3) + avif[meta:],
        "empty.ppm": b"P6\n" + bytes(90),
        "words.ppm": b"P6 wide high 255\n" + bytes(90),
        "range.ppm": b"P6 16 16 99999999\n" + bytes(900),
        "no-size.tif": tiff({258: ("H", (8,)), 262: ("H", (1,))}, b"12"),
        "no-data.tif": tiff({256: ("I", (9,)), 257: ("I", (9,)), 258: ("H", (8,)), 262: ("H", (1,)),
                             324: ("I", ())}, b"12"),
        "packed.tif": plain_tiff(rgb, tag259=("H", (5,)))[:],
        "deflate.tif": plain_tiff(rgb, tag259=("H", (8,))),
    }  # fmt: skip
    for name, body in cases.items():
        yield Bad(f"damaged/{name}", body, Reason.CORRUPT)
    early = {
        "directory.tif": tif[:4] + struct.pack("<I", len(tif) + 99) + tif[8:],
        "strips.tif": plain_tiff(rgb, tag273=("I", (1 << 30,))),
        "less-data.tif": plain_tiff(rgb, tag279=("I", (9,))),
        "trailer.gif": gif[:-1],
        "magic.gif": b"GIF89a",
        "magic.tif": b"II*\0",
        "closed.png": png(header(48, 32), chunk(b"IDAT", zlib.compress(rgb.tobytes())[:-900])),
        "header.ppm": b"P6\n48 ",
        "magic.bmp": b"BM",
        "magic.webp": b"RIFF\x04\0\0\0WEBP",
    }
    for name, body in early.items():
        yield Bad(f"damaged/{name}", body, Reason.TRUNCATED)


def _modes(seeds: Iterator[int]) -> Iterator[Bad]:
    rgb = pixels(next(seeds))
    good = lossless(next(seeds), "jpeg")
    frame = frame_of(good)
    for process in (0xC3, 0xC5, 0xC9, 0xCA, 0xCB):
        body = good[: frame - 3] + bytes((process,)) + good[frame - 2 :]
        yield Bad(f"modes/process-{process:x}.jpg", body, Reason.UNSUPPORTED_MODE)
    yield Bad("modes/12-bit.jpg", good[:frame] + b"\x0c" + good[frame + 1 :],
              Reason.UNSUPPORTED_MODE)  # fmt: skip
    frames = segment(0xC0, struct.pack(">BHHB", 8, 32, 48, 2) + b"\1\x11\0\2\x11\0")
    yield Bad("modes/two-components.jpg", with_segments(good, frames), Reason.UNSUPPORTED_MODE)
    grey = rgb[..., 0]
    cases = {
        "double": plain_tiff(grey.astype(np.float64) / 255),
        "complex": plain_tiff(grey.astype(np.complex64)),
        "cfa": plain_tiff(grey, 32803),
        "logluv": plain_tiff(rgb, 32845),
        "mask": plain_tiff(grey, 4),
        "24-bit": plain_tiff(rgb, tag258=("H", (24,))),
        "mixed": plain_tiff(rgb, tag258=("H", (8, 16, 8))),
        "kinds": plain_tiff(rgb, tag339=("H", (1, 3, 1))),
        "five": plain_tiff(np.repeat(rgb[..., :1], 9, axis=2), 2),
        "bands": plain_tiff(np.dstack([rgb, rgb[..., :1]]), 1),
    }
    for name, body in cases.items():
        yield Bad(f"modes/{name}.tif", body, Reason.UNSUPPORTED_MODE)


def _ranges(seeds: Iterator[int]) -> Iterator[Bad]:
    grey = pixels(next(seeds))[..., 0]
    for bits in (10, 12, 14):
        deep = grey.astype(np.uint16) << (bits - 8)
        yield Bad(f"range/{bits}-in-16.tif", plain_tiff(deep), Reason.RANGE)
    for name, values in {
        "hdr": grey.astype(np.float32) * 40,
        "byte-floats": grey.astype(np.float32),
        "negative": grey.astype(np.float32) - 200,
        "nan": np.full_like(grey, np.nan, np.float32),
        "signed-16": grey.astype(np.int16),
        "signed-32": grey.astype(np.int32) * 1000,
        "int-32": grey.astype(np.uint32),
        "quarters": grey.astype(np.int8),
    }.items():
        yield Bad(f"range/{name}.tif", plain_tiff(values), Reason.RANGE)


def _costly(seeds: Iterator[int]) -> Iterator[Bad]:
    good = saved(image(next(seeds)), "jpeg", progressive=True)
    scans = good.index(b"\xff\xda")
    last = good[good.rindex(b"\xff\xda") : -2]
    for number in (80, 5_000):
        yield Bad(f"costly/{number}-scans.jpg", good[:-2] + last * number + b"\xff\xd9",
                  Reason.RESOURCE)  # fmt: skip
    empty = good[scans : scans + 4 + 10] * 3_000
    yield Bad("costly/scans-of-nothing.jpg", good[:scans] + empty + b"\xff\xd9", Reason.RESOURCE)


def _blank(seeds: Iterator[int]) -> Iterator[Bad]:
    rgb = pixels(next(seeds))
    clear = Image.fromarray(np.dstack([rgb, np.zeros_like(rgb[..., :1])]))
    for kind in ("png", "webp", "tiff", "avif"):
        options = {"lossless": True, "exact": True} if kind == "webp" else {}
        yield Bad(f"blank/rgba.{kind}", saved(clear, kind, **options), Reason.BLANK)
    yield Bad("blank/la.png", saved(clear.convert("LA"), "png"), Reason.BLANK)
    one = Image.new("P", (40, 30), 3)
    one.putpalette(bytes(range(48)))
    for kind in ("png", "gif"):
        yield Bad(f"blank/palette.{kind}", saved(one, kind, transparency=3), Reason.BLANK)
    deep = np.zeros((32, 48, 4), ">u2")
    deep[..., :3] = rgb
    raw = b"".join(b"\0" + row.tobytes() for row in deep)
    yield Bad("blank/deep.png", png(header(48, 32, 16, 6), chunk(b"IDAT", zlib.compress(raw))),
              Reason.BLANK)  # fmt: skip


def _many(seeds: Iterator[int]) -> Iterator[Bad]:
    """More pictures than can be checked, and some of which not every one can be read."""
    yield Bad("many/endless.gif", gif_frames(next(seeds), 30_000), Reason.TOO_MANY_FRAMES)
    page = plain_tiff(pixels(next(seeds)))
    pages = [page]
    at = len(page)
    for number in range(20_000):
        after = at + 6 * (number + 1)
        pages.append(struct.pack("<HI", 0, after if number < 19_999 else 0))
    for name, reason, book in (
        ("20000-pages", Reason.TOO_MANY_FRAMES, bytearray(b"".join(pages))),
        ("empty-page", Reason.CORRUPT, bytearray(page + struct.pack("<HI", 0, 0))),
    ):
        (first,) = struct.unpack_from("<I", page, 4)
        (entries,) = struct.unpack_from("<H", page, first)
        struct.pack_into("<I", book, first + 2 + 12 * entries, at)
        yield Bad(f"many/{name}.tif", bytes(book), reason)
    three = gif_frames(next(seeds), 3)
    yield Bad("many/cut-in-the-third.gif", three[:-200], Reason.TRUNCATED)
