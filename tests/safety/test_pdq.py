import numpy as np
import pdqhash
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks.pdq import full, photographs
from kontext.safety.pdq import MAX_DISTANCE, MIN_QUALITY, distances, pdq_dihedral

PHOTO = next(photographs(1, 0.6))


def turned(rgb: NDArray[np.uint8], turn: int) -> NDArray[np.uint8]:
    return np.rot90(rgb[:, ::-1] if turn >= 4 else rgb, turn % 4)


@pytest.mark.parametrize("size", [(320, 320), (321, 400), (500, 900), (700, 700), (200, 900)])
def test_one_computation_gives_all_orientations(size: tuple[int, int]) -> None:
    rgb = np.asarray(Image.fromarray(PHOTO).resize(size), np.uint8)
    hashes, quality = pdq_dihedral(rgb)
    assert hashes.shape == (8, 32) and quality >= MIN_QUALITY
    for turn in range(8):
        (own, *_), _ = pdq_dihedral(turned(rgb, turn))
        assert distances(hashes, own).min() <= 4


@pytest.mark.parametrize("seed", range(3))
def test_reduced_hashes_are_those_of_the_full_picture(seed: int) -> None:
    *_, rgb = photographs(seed + 1, 0.7)
    hashes, _ = pdq_dihedral(rgb)
    original = full(rgb)
    assert distances(hashes[0], original[0]) <= MAX_DISTANCE // 3
    assert all(distances(original, own).min() <= MAX_DISTANCE // 3 for own in hashes)
    assert all(distances(hashes, other).min() <= MAX_DISTANCE // 3 for other in original)


@pytest.mark.parametrize("size", [(8, 8), (64, 48), (320, 20), (319, 319)])
def test_a_small_picture_is_not_enlarged(size: tuple[int, int]) -> None:
    rgb = np.asarray(Image.fromarray(PHOTO).resize(size), np.uint8)
    vector, quality = pdqhash.compute(rgb)
    hashes, ours = pdq_dihedral(rgb)
    assert (hashes[0] == np.packbits(vector.astype(bool))).all() and ours == quality


def test_different_pictures_stay_apart() -> None:
    first, second = (pdq_dihedral(rgb)[0] for rgb in photographs(2, 0.5))
    assert distances(first[:, None], second).min() > MAX_DISTANCE
