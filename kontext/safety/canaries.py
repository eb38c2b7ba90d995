"""Benign canaries: pictures of plasma and shapes that the hash gate must stop.

They are harmless, like EICAR's test file for virus scanners. The gate's bank always holds their
hashes. A run adds a few as ordinary records, and fails unless every one is stopped before anything
of it is written. The pictures are a pure function of their number, so no hash list is shipped.
"""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

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
