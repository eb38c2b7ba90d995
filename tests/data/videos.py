"""Small videos made by the tests."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

WIDTH, HEIGHT, RATE = 96, 64, 10  # pixels, frames a second


def scene(shot: int, step: int, pan: int = 0) -> np.ndarray:
    """A textured place per shot, a bright square that has moved by `step`. uint8 [H, W, 3]."""
    coarse = np.random.default_rng(shot).integers(40, 200, (8, 24, 3), np.uint8)
    place = np.kron(coarse, np.ones((8, 8, 1), np.uint8))
    rgb = place[:, pan : pan + WIDTH].copy()
    left = 4 + step % 60
    rgb[20:40, left : left + 20] = (250, 240, 30)
    return rgb


def frames(shots: int = 2, seconds: int = 4) -> Iterator[np.ndarray]:
    """Shots of equal length; the square moves two pixels a frame."""
    for shot in range(shots):
        for number in range(seconds * RATE):
            yield scene(shot, 2 * number)


def write(path: Path, pictures: Iterator[np.ndarray], codec: str = "mpeg4") -> Path:
    """A video file of these pictures."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.bit_rate = 2_000_000
        for rgb in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(stream.encode())
    return path
