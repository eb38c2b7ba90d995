"""Pixels: RGB8 as every stage sees it, the id of it, and the PNG it is kept as."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor

from kontext.errors import ArtifactError
from kontext.safety.ids import pixel_id

__all__ = ["Pixels", "decode_png", "encode_png", "on_canvas", "pixel_id", "png_size"]

Pixels = NDArray[np.uint8]  # [H, W, 3]


def png_size(png: bytes | memoryview) -> tuple[int, int]:
    """(width, height) of a PNG, from its header."""
    header = bytes(png[16:24])
    return int.from_bytes(header[:4], "big"), int.from_bytes(header[4:], "big")


def on_canvas(rgb: Pixels, shape: tuple[int, int], background: str) -> Pixels:
    """A picture in the middle of a canvas of a shape (width, height), no larger than it must be."""
    height, width = rgb.shape[:2]
    scale = max(width / shape[0], height / shape[1])
    across, down = (max(1, round(side * scale)) for side in shape)
    canvas = np.full((down, across, 3), ImageColor.getrgb(background)[:3], np.uint8)
    left, top = (across - width) // 2, (down - height) // 2
    canvas[top : top + height, left : left + width] = rgb
    return canvas


def encode_png(rgb: Pixels) -> bytes:
    """Lossless PNG; the same pixels give the same bytes under the same libraries.

    In a photograph only neighbours are alike: run lengths alone make its file as small as the
    search for repeated strings does, in a tenth of the time. A drawing is searched. Where OpenCV is
    not installed, a photograph is searched too.
    """
    fast = _run_lengths(rgb)
    if 3 * len(fast) > rgb.size:
        return fast
    out = io.BytesIO()
    Image.fromarray(rgb).save(out, "PNG", compress_level=6)
    return out.getvalue()


def _run_lengths(rgb: Pixels) -> bytes:
    try:
        import cv2
    except ModuleNotFoundError:
        return b""
    # naming a level lets OpenCV choose each row's filter
    how = (cv2.IMWRITE_PNG_COMPRESSION, 6, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE)
    return cv2.imencode(".png", np.ascontiguousarray(rgb[..., ::-1]), how)[1].tobytes()


def decode_png(png: bytes | memoryview) -> Pixels:
    """Pixels [H, W, 3] of a PNG that `encode_png` wrote. Threads run it side by side.

    With Pillow where OpenCV is not installed: the same pixels, at half the speed.

    Raises:
        ArtifactError: not such a PNG, or a damaged one.
    """
    # OpenCV reads a small PNG twice as fast as Pillow, and lets go of the interpreter's lock
    try:
        import cv2
    except ModuleNotFoundError:
        return _decode_with_pillow(png)

    try:
        rgb = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:  # no bytes at all
        raise ArtifactError(f"an image of {len(png)} bytes is no PNG of ours: {error}") from error
    if rgb is None:
        raise ArtifactError(f"an image of {len(png)} bytes is no PNG of ours")
    return np.asarray(rgb, np.uint8)


def _decode_with_pillow(png: bytes | memoryview) -> Pixels:
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            return np.array(image.convert("RGB"), np.uint8)
    except (OSError, SyntaxError) as error:  # SyntaxError: Pillow's word for a broken PNG
        raise ArtifactError(f"an image of {len(png)} bytes is no PNG of ours: {error}") from error
