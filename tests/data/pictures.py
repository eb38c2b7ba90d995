"""Small images for data tests: different to the eye, the same in every run."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kontext.data.pixels import encode_png


def scene(number: int, side: int = 64) -> NDArray[np.uint8]:
    """A smooth random picture [side, side, 3]; every number looks different."""
    small = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(image, np.uint8)


def scene_png(number: int, side: int = 64) -> bytes:
    """PNG bytes of a scene."""
    return encode_png(scene(number, side))
