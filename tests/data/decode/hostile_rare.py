"""More good pictures, of rare kinds: compressions, tiles, interlacing, old bitmaps."""

import struct
from collections.abc import Iterator
from itertools import count, product
from typing import Any

import numpy as np
from PIL import Image

from tests.data.decode.hostile_good import Good, as_pillow
from tests.data.decode.hostile_parts import Rgb, image, pixels, saved


def rare_files() -> Iterator[Good]:
    """All of them, in one order."""
    yield from _variants(count(30_000))
    yield from _bitmaps(count(31_000))


def _variants(seeds: Iterator[int]) -> Iterator[Good]:
    """Kinds of TIFF and JPEG that are rare, and interlaced PNGs."""
    import pyvips

    tiffs: dict[str, dict[str, Any]] = {
        "tiled": {"tile": True, "tile_width": 16, "tile_height": 16},
        "big": {"bigtiff": True},
        "lzw": {"compression": "lzw", "predictor": "horizontal"},
        "deflate-tiles": {"compression": "deflate", "tile": True},
        "packbits": {"compression": "packbits"},
        "pyramid": {"pyramid": True, "tile": True, "tile_width": 16, "tile_height": 16},
    }
    for name, options in tiffs.items():
        rgb = pixels(next(seeds))
        data = pyvips.Image.new_from_array(rgb).tiffsave_buffer(**options)
        yield Good(f"variants/{name}.tif", data, rgb)
    rgb = pixels(next(seeds))
    with_jpeg = pyvips.Image.new_from_array(rgb).tiffsave_buffer(compression="jpeg", Q=95)
    yield Good("variants/jpeg.tif", with_jpeg, as_pillow(with_jpeg), 4)  # another inverse transform
    rgb = pixels(next(seeds))
    yield Good("variants/motorola.tif", saved(Image.fromarray(rgb), "tiff", big_endian=True), rgb)
    jpegs: dict[str, dict[str, Any]] = {
        "progressive": {"progressive": True},
        "411": {"subsampling": "4:1:1"},
        "420": {"subsampling": "4:2:0"},
        "restarts": {"restart_marker_blocks": 3},
        "rgb": {"keep_rgb": True},
        "optimised": {"optimize": True},
    }
    for name, options in jpegs.items():
        data = saved(image(next(seeds), width=50, height=37), "jpeg", **options)
        yield Good(f"variants/{name}.jpg", data, as_pillow(data))
    grey = saved(image(next(seeds), "L"), "jpeg", quality=95)
    yield Good("variants/grey.jpg", grey, as_pillow(grey))
    for bands, depth in product((1, 3, 4), (8, 16)):
        rgb = pixels(next(seeds))
        full = np.dstack([rgb, np.full_like(rgb[..., :1], 255)])
        shown = full[..., 0] if bands == 1 else full[..., :bands]
        deep = shown if depth == 8 else shown.astype(np.uint16) * 257
        kind = (
            {1: "b-w", 3: "srgb", 4: "srgb"}
            if depth == 8
            else {1: "grey16", 3: "rgb16", 4: "rgb16"}
        )
        data = pyvips.Image.new_from_array(deep).copy(interpretation=kind[bands]).pngsave_buffer(
            interlace=True)  # fmt: skip
        right = np.repeat(rgb[..., :1], 3, axis=2) if bands == 1 else rgb
        yield Good(f"variants/adam7-{bands}-{depth}.png", data, right)
    data = saved(image(next(seeds)), "avif", quality=95, subsampling="4:4:4")
    yield Good("variants/one.avif", data, as_pillow(data))


def _bitmaps(seeds: Iterator[int]) -> Iterator[Good]:
    """BMP, PPM and GIF as old programs wrote them."""
    rgb = pixels(next(seeds))
    rows = np.flipud(rgb)[..., ::-1]
    for name, bits, body in (
        ("32", 32, np.dstack([rows, np.zeros_like(rows[..., :1])]).tobytes()),
        ("555", 16, _packed_555(rows).tobytes()),
    ):
        head = struct.pack("<IiiHHIIiiII", 40, 48, 32, 1, bits, 0, len(body), 0, 0, 0, 0)
        data = b"BM" + struct.pack("<IHHI", 54 + len(body), 0, 0, 54) + head + body
        yield Good(f"bitmaps/{name}.bmp", data, as_pillow(data))
    down = pixels(next(seeds))
    head = struct.pack("<IiiHHIIiiII", 40, 48, -32, 1, 24, 0, down.nbytes, 0, 0, 0, 0)
    data = (
        b"BM" + struct.pack("<IHHI", 54 + down.nbytes, 0, 0, 54) + head + down[..., ::-1].tobytes()
    )
    yield Good("bitmaps/top-down.bmp", data, down)
    rgb = pixels(next(seeds))
    text = " ".join(map(str, rgb.ravel()))
    yield Good("bitmaps/digits.ppm", f"P3\n# made by hand\n48 32 # size\n255\n{text}".encode(), rgb)
    rgb = pixels(next(seeds))
    grey = " ".join(map(str, rgb[..., 0].ravel()))
    yield Good("bitmaps/digits.pgm", f"P2 48 32 255\n{grey}\n".encode(),
               np.repeat(rgb[..., :1], 3, axis=2))  # fmt: skip
    bits = pixels(next(seeds))[..., 0] > 120
    ones = "".join(str(int(bit)) for bit in bits.ravel())
    yield Good("bitmaps/bits.pbm", f"P1 48 32\n{ones}".encode(),
               np.where(bits, 0, 255).astype(np.uint8)[..., None].repeat(3, axis=2))  # fmt: skip
    low = pixels(next(seeds)) // 16
    yield Good("bitmaps/maximum-15.ppm", b"P6 48 32 15\n" + low.tobytes(), low * 17)
    for interlace in (0, 1):
        picture = image(next(seeds), width=41).quantize(32)
        data = saved(picture, "gif", interlace=interlace)
        yield Good(f"bitmaps/interlace-{interlace}.gif", data, np.asarray(picture.convert("RGB")))


def _packed_555(bgr: Rgb) -> Any:
    five = bgr.astype(np.uint16) >> 3
    return (five[..., 0] | five[..., 1] << 5 | five[..., 2] << 10).astype("<u2")
