import numpy as np
import pytest

from kontext.data.quality.pixels import CHANGED_ABOVE, quality, ssim
from kontext.safety.pdq import distances


def naive_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004, pixel by pixel and channel by channel, in float64."""
    offsets = np.arange(11) - 5
    kernel = np.exp(-(offsets**2) / (2 * 1.5**2))
    kernel = np.outer(kernel, kernel) / kernel.sum() ** 2
    values = []
    for c in range(3):
        x, y = a[..., c] / 255, b[..., c] / 255
        for i in range(x.shape[0] - 10):
            for j in range(x.shape[1] - 10):
                p, q = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
                mp, mq = (kernel * p).sum(), (kernel * q).sum()
                vp, vq = (kernel * (p - mp) ** 2).sum(), (kernel * (q - mq) ** 2).sum()
                cov = (kernel * (p - mp) * (q - mq)).sum()
                top = (2 * mp * mq + 1e-4) * (2 * cov + 9e-4)
                values.append(top / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    return float(np.mean(values))


@pytest.fixture
def images() -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)
    return coarse.repeat(5, 1).repeat(5, 2)  # [4, 30, 25, 3]


def test_ssim_equals_the_naive_definition(images):
    noise = np.random.default_rng(1).integers(-30, 30, images.shape)
    other = (images + noise).clip(0, 255).astype(np.uint8)
    expected = [naive_ssim(a, b) for a, b in zip(images, other, strict=True)]
    assert ssim(images, other) == pytest.approx(expected, abs=2e-5)
    assert ssim(images, images[::-1].copy()) == pytest.approx(
        [naive_ssim(a, b) for a, b in zip(images, images[::-1], strict=True)], abs=2e-5
    )


def test_ssim_sees_a_change_between_equally_bright_colours():
    red = np.zeros((1, 16, 16, 3), np.uint8)
    green = red.copy()
    red[..., 0], green[..., 1] = 200, 102  # luma 59.8 and 59.9
    assert ssim(red, green)[0] < 0.9


def test_identity_and_small_images(images):
    same = quality(images, images)
    assert np.allclose(same.ssim, 1, atol=1e-6)
    assert not same.l1.any() and not same.changed_frac.any()
    tiny = images[:, :4, :7]
    assert np.allclose(ssim(tiny, tiny), 1, atol=1e-6)


def test_l1_does_not_wrap_and_is_symmetric():
    grey = np.full((2, 16, 16, 3), 100, np.uint8)
    darker, brighter = grey - 1, grey + 1
    assert quality(grey, darker).l1 == pytest.approx([1 / 255] * 2)
    assert quality(grey, brighter).l1 == pytest.approx([1 / 255] * 2)
    assert quality(np.zeros_like(grey), np.full_like(grey, 255)).l1 == pytest.approx([1, 1])


def test_changed_share_counts_pixels_not_channels():
    a = np.zeros((1, 10, 10, 3), np.uint8)
    b = a.copy()
    b[0, :2, :5, 1] = CHANGED_ABOVE + 1
    b[0, 9, :, 2] = CHANGED_ABOVE
    assert quality(a, b).changed_frac[0] == pytest.approx(0.1)


def test_blocks_do_not_matter(images, monkeypatch):
    whole = quality(images, images[::-1].copy())
    monkeypatch.setattr("kontext.data.quality.pixels._BLOCK_PIXELS", 30 * 25)
    for one, other in zip(whole, quality(images, images[::-1].copy()), strict=True):
        assert np.allclose(one, other, atol=1e-6)


def test_distances_counts_bits():
    a = np.zeros((2, 32), np.uint8)
    b = a.copy()
    b[1, 0], b[1, 31] = 0b101, 0xFF
    assert distances(a, b).tolist() == [0, 10]
