"""Canvases for operations: two scenes like photographs, and a cut-out."""

import numpy as np

from kontext.data.operations.base import Canvas


def scene(seed: int = 0, width: int = 192, height: int = 128) -> Canvas:
    """Sky, hills and a red house, with grain: every operation on opaque pictures fits it."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / (height, width)[0]
    rgb = np.empty((height, width, 3))
    rgb[:] = (96, 140, 205)
    rgb += (y * 60)[..., None]
    hills = y > 0.62 + 0.08 * np.sin(x * 6 + seed)
    rgb[hills] = (70, 120, 60)
    rgb[int(0.45 * height) : int(0.8 * height), int(0.35 * width) : int(0.55 * width)] = (
        190,
        50,
        45,
    )
    rgb += random.normal(0, 9, (height // 2, width // 2, 1)).repeat(2, 0).repeat(2, 1)
    return Canvas(np.clip(rgb, 4, 250).astype(np.uint8))


def cutout(size: int = 128) -> Canvas:
    """A purple head with one eye, left of the middle, on white."""
    y, x = np.mgrid[:size, :size]
    far = np.hypot(x - 0.42 * size, y - 0.52 * size)
    alpha = np.clip(0.25 * size - far + 0.5, 0, 1).astype(np.float32)
    colour = np.zeros((size, size, 3))
    colour[:] = (120, 60, 160)
    colour[np.hypot(x - 0.35 * size, y - 0.45 * size) < 0.06 * size] = (250, 220, 60)
    rgb = colour * alpha[..., None] + 255 * (1 - alpha[..., None])
    return Canvas(np.rint(rgb).astype(np.uint8), alpha)
