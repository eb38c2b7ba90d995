"""What counts as one picture in two files."""

import io

import pytest
from PIL import Image, ImageOps

from benchmarks.pdq import photographs
from kontext.safety.hash_test.same import same_picture
from kontext.safety.hash_test.transforms import rgb_of
from kontext.safety.pdq import MAX_DISTANCE, distances, pdq_dihedral
from tests.safety.hash_test.clouds import clouds

ONE, OTHER = (Image.fromarray(rgb) for rgb in photographs(2, 0.2))


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=quality)
    return Image.open(data).convert("RGB")


@pytest.mark.parametrize(
    "made",
    [
        ONE,
        jpeg(ONE, 40),
        ONE.resize((ONE.width // 2, ONE.height // 2)),
        ONE.transpose(Image.Transpose.TRANSVERSE),
        ImageOps.mirror(ONE),
        ImageOps.autocontrast(ONE, cutoff=10),
        ImageOps.colorize(ONE.convert("L"), "navy", "yellow").convert("RGB"),
    ],
    ids=["itself", "JPEG", "half", "turned", "mirrored", "contrast", "false colors"],
)
def test_one_picture_processed_is_one(made: Image.Image) -> None:
    assert same_picture(ONE, made) and same_picture(made, ONE)


def test_pictures_alike_in_what_pdq_sees_are_two() -> None:
    assert not same_picture(ONE, OTHER)
    one, other = clouds(0, 1.0), clouds(1, 0.8)
    apart = distances(pdq_dihedral(rgb_of(one))[0], pdq_dihedral(rgb_of(other))[0][0])
    assert apart.min() <= MAX_DISTANCE
    assert not same_picture(one, other)
    assert same_picture(other, clouds(1, 1.0))


def test_flat_pictures_are_one_where_hardly_a_pixel_differs() -> None:
    gray, light = (Image.new("RGB", (300, 200), (v, v, v)) for v in (100, 140))
    assert same_picture(gray, Image.new("RGB", (300, 200), (103, 103, 103)))
    assert not same_picture(gray, light)
