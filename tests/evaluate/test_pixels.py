import numpy as np
import pytest
from scipy.ndimage import binary_dilation, gaussian_filter

from kontext.evaluate.pixels import (
    PSNR_CAP,
    blurred,
    change_mask,
    cosine_distance,
    grown,
    masked_mae,
    psnr,
)


def flat(value: int, n: int = 1, side: int = 4) -> np.ndarray:
    return np.full((n, side, side, 3), value, np.uint8)


def test_mask_takes_the_largest_channel_and_is_strict() -> None:
    context, target = flat(100), flat(100)
    target[0, 0, 0] = (100, 100, 116)  # 16 / 255 = 0.0627
    target[0, 1, 1] = (85, 100, 100)  # 15 / 255 = 0.0588
    mask = change_mask(context, target, 0.06)
    assert mask.shape == (1, 4, 4)
    assert mask.sum() == 1 and mask[0, 0, 0]
    edge = flat(0)
    edge[0, 2, 2, 0] = 51  # exactly 0.2: not above
    assert change_mask(flat(0), edge, 0.2).sum() == 0


def test_mask_does_not_wrap_around() -> None:
    # in uint8, 0 - 255 = 1: the largest possible change would vanish
    assert change_mask(flat(255), flat(0), 0.06).all()
    assert change_mask(flat(0), flat(255), 0.06).all()


def test_masked_mae_by_hand() -> None:
    a, b = flat(0), flat(0)
    b[0, 0, 0] = (255, 0, 0)  # mean over channels 1/3
    b[0, 0, 1] = (255, 255, 255)  # 1
    b[0, 3, 3] = (255, 255, 255)  # outside the mask: must not count
    mask = np.zeros((1, 4, 4), bool)
    mask[0, 0, :2] = True
    assert masked_mae(a, b, mask)[0] == pytest.approx((1 / 3 + 1) / 2)
    assert masked_mae(b, a, mask)[0] == pytest.approx((1 / 3 + 1) / 2)


def test_masked_mae_of_an_empty_mask_is_nan() -> None:
    mask = np.zeros((2, 4, 4), bool)
    mask[1] = True
    values = masked_mae(flat(0, 2), flat(51, 2), mask)
    assert np.isnan(values[0]) and values[1] == pytest.approx(0.2)


def test_psnr_by_hand() -> None:
    assert psnr(flat(10), flat(20))[0] == pytest.approx(10 * np.log10(255**2 / 100))
    assert psnr(flat(10), flat(10))[0] == PSNR_CAP


def test_cosine_distance_by_hand() -> None:
    a = np.array([[1, 0], [1, 0], [1, 0], [3, 4], [0, 0]], np.float32)
    b = np.array([[2, 0], [0, 5], [-1, 0], [3, 4], [1, 0]], np.float32)
    assert cosine_distance(a, b).tolist() == pytest.approx([0, 1, 2, 0, 1])
    assert cosine_distance(a, a)[3] == 0.0  # exactly: the oracle must not be at distance 1e-16


@pytest.mark.parametrize("sigma", [0.8, 1.5, 6])
def test_the_blur_is_scipys(sigma: float) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 17, 40, 3), dtype=np.uint8)
    theirs = gaussian_filter(images.astype(np.float32), (0, sigma, sigma, 0))
    assert np.abs(blurred(images, sigma) - theirs).max() < 1e-3


@pytest.mark.parametrize("pixels", [0, 1, 3])
def test_masks_grow_as_scipys_do(pixels: int) -> None:
    masks = np.random.default_rng(0).random((3, 12, 30)) < 0.03
    theirs = [binary_dilation(mask, iterations=pixels) for mask in masks] if pixels else masks
    assert np.array_equal(grown(masks, pixels), np.stack(list(theirs)))
