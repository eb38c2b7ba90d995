"""Tiles of a file: their own pixels, or an error that says why not."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kontext.data.layouts.base import Picture
from kontext.data.layouts.tile import tiles
from kontext.data.pixels import Pixels
from kontext.errors import SourceError, TooLargeError

LIMIT = 1 << 20


def noise(height: int, width: int) -> Pixels:
    return np.random.default_rng(height + width).integers(0, 255, (height, width, 3), np.uint8)


def written(path: Path, rgb: Pixels) -> Picture:
    Image.fromarray(rgb).save(path, "PNG")
    return Picture(path.name, path)


def pixels(part: object) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(part.read(LIMIT))))  # type: ignore[attr-defined]


@pytest.mark.parametrize(("border", "gutter"), [(0, 0), (8, 16)])
def test_each_side_is_its_own_pixels(tmp_path: Path, border: int, gutter: int) -> None:
    halves = noise(40, 40), noise(40, 41)[:, :40]
    height, width = 40 + 2 * border, 80 + 2 * border + gutter
    whole = np.zeros((height, width, 3), np.uint8)
    for side, half in enumerate(halves):
        left = border + side * (40 + gutter)
        whole[border : border + 40, left : left + 40] = half
    both = tiles(written(tmp_path / "both.png", whole), border, gutter)
    assert [one.ref for one in both] == ["both.png#left", "both.png#right"]
    for one, half in zip(both, halves, strict=True):
        assert np.array_equal(pixels(one.part), half)


def test_what_is_not_two_pictures_has_a_reason(tmp_path: Path) -> None:
    for name, rgb in (("one.png", noise(40, 30)), ("odd.png", noise(40, 81))):
        left, _ = tiles(written(tmp_path / name, rgb))
        with pytest.raises(SourceError, match="not two pictures") as error:
            pixels(left.part)
        assert error.value.reason == "not_side_by_side"
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nxxxx")
    left, _ = tiles(Picture("broken.png", tmp_path / "broken.png"))
    with pytest.raises(SourceError) as error:
        pixels(left.part)
    assert error.value.reason in ("truncated", "corrupt")
    left, _ = tiles(Picture("gone.png", tmp_path / "gone.png"))
    with pytest.raises(SourceError, match="No such file"):
        pixels(left.part)
    left, _ = tiles(written(tmp_path / "large.png", noise(40, 80)))
    with pytest.raises(TooLargeError):
        left.part.read(10)  # type: ignore[union-attr]
