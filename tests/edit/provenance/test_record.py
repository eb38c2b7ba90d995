import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kontext.edit.provenance.record import Provenance, check_path, save_image
from kontext.errors import KontextError

ORIGIN = Provenance("demo", "ab" * 32, 'make the sign read "ÖFFNEN" \U0001f600', 7, 4, 1.5)


def written_in(path: Path) -> dict[str, Any]:
    """The provenance inside an image file: a PNG's text, or EXIF's ImageDescription."""
    with Image.open(path) as image:
        found: dict[str, Any] = json.loads(image.info.get("kontext") or image.getexif()[0x010E])
    return found


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (24, 16, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.JPEG", "a.webp"])
def test_provenance_survives_in_every_format(tmp_path: Path, name: str) -> None:
    save_image(tmp_path / name, picture(), ORIGIN)
    found = written_in(tmp_path / name)
    assert found["instruction"] == ORIGIN.instruction
    assert (found["model"], found["digest"], found["seed"]) == ("demo", "ab" * 32, 7)
    assert (found["steps"], found["guidance"]) == (4, 1.5)
    assert found["digital_source_type"].endswith("compositeWithTrainedAlgorithmicMedia")
    with Image.open(tmp_path / name) as image:
        assert image.size == (16, 24)


def test_png_keeps_the_pixels_and_equal_edits_have_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save_image(tmp_path / name, picture(), ORIGIN)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(np.asarray(image), picture())


def test_bad_destinations_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(KontextError, match=r"saved as \.png"):
        check_path(Path("out.gif"))
    with pytest.raises(KontextError, match="there is no folder"):
        check_path(tmp_path / "no" / "a.png")
    with pytest.raises(KontextError, match="cannot write"):
        save_image(tmp_path / "no" / "a.png", picture(), ORIGIN)
    (tmp_path / "a.png").mkdir()
    with pytest.raises(KontextError, match="cannot write"):
        save_image(tmp_path / "a.png", picture(), ORIGIN)
