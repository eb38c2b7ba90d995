"""The benchmark of real photographs: what it makes of the pictures that it is given."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import photographs
from tests.data.pictures import scene


def test_pictures_get_shapes_in_turn_and_are_never_stretched(tmp_path: Path) -> None:
    for number, size in enumerate(((720, 360), (300, 300), (100, 100))):
        Image.fromarray(scene(number)).resize(size).save(tmp_path / f"{number}.jpg")
    Image.fromarray(scene(9, 400)).save(tmp_path / "drawn.png")
    paths = photographs.photographs([tmp_path])
    assert [path.name for path in paths] == ["0.jpg", "1.jpg"]
    count = 2 * len(photographs.SHAPES)
    made = photographs.make(paths, count, tmp_path / "made")
    sizes = [Image.open(path).size for path in made]
    assert len(made) == count and len(set(sizes)) == len(photographs.SHAPES) >= 12
    assert {max(size) for size in sizes} == {384}
    marked = np.zeros((300, 600, 3), np.uint8)
    marked[100:200, 250:350] = 255  # a square in the middle stays one
    cut = np.asarray(photographs.cut(Image.fromarray(marked), (4, 3)))[..., 0] > 127
    assert cut.any(axis=0).sum() == pytest.approx(cut.any(axis=1).sum(), abs=1)


def test_too_few_photographs_are_said(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="0 photographs found"):
        photographs.measured([tmp_path], 1, tmp_path / "home")
