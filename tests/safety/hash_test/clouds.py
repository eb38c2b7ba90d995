"""Different pictures that PDQ takes for one: the same clouds, with a grain of their own."""

import cv2
import numpy as np
from PIL import Image


def clouds(grain: int, light: float) -> Image.Image:
    """400 px: large soft shapes, the same in each, and details that no other grain has."""
    soft = np.random.default_rng(0).uniform(0, 255, (20, 20)).astype(np.float32)
    large = cv2.resize(soft, (400, 400), interpolation=cv2.INTER_CUBIC)
    noise = np.random.default_rng(1 + grain).normal(0, 400, (400, 400)).astype(np.float32)
    own = cv2.GaussianBlur(noise, (0, 0), 3) - cv2.GaussianBlur(noise, (0, 0), 9)
    made = np.clip(light * (64 + large / 2 + own), 0, 255).astype(np.uint8)
    return Image.fromarray(made[..., None].repeat(3, axis=2))
