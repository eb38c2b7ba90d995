"""Benign canaries: pictures of plasma and shapes that the hash gate must stop.

They are harmless, like EICAR's test file for virus scanners. The gate's bank always holds their
hashes. A run adds a few as ordinary records, and fails unless every one is stopped before anything
of it is written. The pictures are a pure function of their number, so no hash list is shipped.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

BANK_SIZE = 16
PROVIDER = "canary-bank@1"
_SIDE = 256


def canary_image(number: int) -> Image.Image:
    """Canary `number` (0 to BANK_SIZE - 1): RGB, 256 x 256."""
    rng = np.random.Generator(np.random.PCG64(0xCA9A12 + number))
    y, x = np.mgrid[0:_SIDE, 0:_SIDE] / _SIDE
    channels = []
    for _ in range(3):
        field = np.zeros((_SIDE, _SIDE))
        for frequency in (1, 2, 3, 5, 8):
            angle, phase = rng.uniform(0, 2 * np.pi, 2)
            wave = x * np.cos(angle) + y * np.sin(angle)
            field += np.sin(2 * np.pi * frequency * wave + phase) / frequency
        channels.append(np.uint8(127.5 + 100 * field / np.abs(field).max()))
    image = Image.fromarray(np.stack(channels, -1))
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        left, top, width, height = rng.integers((0, 0, 30, 30), (200, 200, 110, 110))
        box = (int(left), int(top), int(left + width), int(top + height))
        red, green, blue = (int(value) for value in rng.integers(0, 256, 3))
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape(box, fill=(red, green, blue))
    return image


@lru_cache(maxsize=BANK_SIZE)
def canary_png(number: int) -> bytes:
    """The canary's file, as PNG."""
    buffer = io.BytesIO()
    canary_image(number).save(buffer, "PNG")
    return buffer.getvalue()


def canary_items(n: int, seed: int = 0) -> list[bytes]:
    """`n` different canary files, chosen by `seed`.

    Raises:
        ValueError: `n` is above BANK_SIZE.
    """
    if not 0 <= n <= BANK_SIZE:
        raise ValueError(f"there are {BANK_SIZE} canaries, {n} were asked for")
    return [canary_png((seed + index) % BANK_SIZE) for index in range(n)]


def _jpeg(quality: int) -> Callable[[Image.Image], Image.Image]:
    def apply(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer).convert("RGB")

    return apply


def _resize(width: int, height: int) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.resize((width, height), Image.Resampling.BICUBIC)


def _turn(method: Image.Transpose) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.transpose(method)


def _noise(image: Image.Image) -> Image.Image:
    rng = np.random.Generator(np.random.PCG64(7))
    pixels = np.asarray(image, np.float32) + rng.normal(0, 8, (image.height, image.width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _watermark(image: Image.Image) -> Image.Image:
    marked = image.copy()
    ImageDraw.Draw(marked).text((8, image.height - 20), "sample", fill=(255, 255, 255))
    return marked


# What ordinary re-posting does to a picture; `recall` says how many still match.
TRANSFORMS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "none": lambda image: image,
    "jpeg-95": _jpeg(95),
    "jpeg-60": _jpeg(60),
    "jpeg-30": _jpeg(30),
    "half": _resize(128, 128),
    "quarter": _resize(64, 64),
    "double": _resize(512, 512),
    "squeeze": _resize(256, 192),
    "rotate-90": _turn(Image.Transpose.ROTATE_90),
    "rotate-180": _turn(Image.Transpose.ROTATE_180),
    "rotate-270": _turn(Image.Transpose.ROTATE_270),
    "flip-x": _turn(Image.Transpose.FLIP_LEFT_RIGHT),
    "flip-y": _turn(Image.Transpose.FLIP_TOP_BOTTOM),
    "transpose": _turn(Image.Transpose.TRANSPOSE),
    "transverse": _turn(Image.Transpose.TRANSVERSE),
    "grey": lambda image: ImageOps.grayscale(image).convert("RGB"),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.3),
    "blur": lambda image: image.filter(ImageFilter.GaussianBlur(1.5)),
    "noise": _noise,
    "watermark": _watermark,
    "crop-1%": lambda image: image.crop((1, 1, image.width - 1, image.height - 1)),
    "crop-10%": lambda image: image.crop((13, 13, image.width - 13, image.height - 13)),
    "border-5%": lambda image: ImageOps.expand(image, 6, (255, 255, 255)),
}


def transformed(number: int, name: str) -> tuple[bytes, NDArray[np.uint8]]:
    """Canary `number` after transform `name`: (PNG bytes, uint8 [H, W, 3])."""
    image = TRANSFORMS[name](canary_image(number))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue(), np.asarray(image)
