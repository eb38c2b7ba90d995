"""An edit made on a smaller or larger copy, at the size of the picture itself."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from kontext.edit.canvas import bring_back, resize

SIZE = (240, 160)


def scene(disc: str = "red", moon: bool = False) -> np.ndarray:
    """A disc with a thin line on a sky and a meadow, with grain."""
    image = Image.new("RGB", SIZE, (120, 170, 230))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 96, 240, 160), fill=(90, 140, 60))
    draw.ellipse((84, 48, 156, 144), fill=disc)
    draw.line((24, 16, 216, 152), fill="black", width=2)
    if moon:
        draw.ellipse((180, 12, 212, 44), fill="ivory")
    grain = np.random.default_rng(0).integers(-12, 12, (160, 240, 1))
    return (np.asarray(image).astype(int) + grain).clip(0, 255).astype(np.uint8)


def error(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - other).mean())


@pytest.mark.parametrize("small", [(64, 43), (96, 64), (239, 159), (480, 320)])
def test_what_did_not_change_is_the_picture_itself(small: tuple[int, int]) -> None:
    before = resize(scene(), small)
    assert np.abs(bring_back(scene(), before, before).astype(int) - scene()).max() <= 1
    assert error(bring_back(scene(), before, before, restore=False), scene()) > 0.5


@pytest.mark.parametrize("small", [(64, 43), (96, 64), (480, 320)])
def test_another_colour_has_the_edges_of_the_picture(small: tuple[int, int]) -> None:
    wanted = scene("blue")
    before, after = resize(scene(), small), resize(wanted, small)
    out, plain = (bring_back(scene(), before, after, restore) for restore in (True, False))
    assert error(out, wanted) < 0.15 * error(plain, wanted)


def test_what_is_new_is_there_and_the_rest_is_sharp() -> None:
    wanted = scene(moon=True)
    before, after = resize(scene(), (64, 43)), resize(wanted, (64, 43))
    out = bring_back(scene(), before, after)
    assert error(out[20:36, 188:204], wanted[20:36, 188:204]) < 12
    assert error(out[:, :150], wanted[:, :150]) < 0.1


@pytest.mark.parametrize("size", [(8, 8), (9, 31), (257, 65), (64, 64), (1, 3), (3000, 800)])
def test_the_result_has_the_size_of_the_picture(size: tuple[int, int]) -> None:
    original = resize(scene(), size)
    small = (64, max(1, round(64 * size[1] / size[0])))
    before, after = resize(original, small), 255 - resize(original, small)
    assert bring_back(original, before, after).shape == original.shape
    same = bring_back(before, before, after)
    assert np.array_equal(same, after)  # of one size: the model's own picture, bit by bit
