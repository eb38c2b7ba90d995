"""Metrics against the libraries that papers use, called directly."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from kontext.data.quality.pixels import ssim, ssim_within
from kontext.evaluate.metrics.distribution import kid
from kontext.evaluate.pixels import masked_psnr, psnr
from kontext.train.images.reconstruction import frechet_distance
from kontext.train.methods.autoencoder import psnr as psnr_of_batches


def pictures(count: int, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Smooth pictures with noise, uint8 [N, H, W, 3]."""
    rng = np.random.default_rng(seed)
    waves = np.linspace(0, 6, size[0])[:, None, None] + np.linspace(0, 4, size[1])[None, :, None]
    smooth = 110 + 90 * np.sin(waves + rng.uniform(0, 6, (count, 1, 1, 3)))
    return (smooth + rng.normal(0, 12, (count, *size, 3))).clip(0, 255).astype(np.uint8)


def tensor(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)


A, B = pictures(3, (40, 56)), pictures(3, (40, 56), seed=1)


def test_psnr_is_torchmetrics() -> None:
    theirs = peak_signal_noise_ratio(
        tensor(A).double(), tensor(B).double(), data_range=255.0, dim=(1, 2, 3), reduction="none"
    )
    assert psnr(A, B) == pytest.approx(theirs.numpy(), abs=1e-6)
    assert psnr_of_batches(tensor(A), tensor(B)).numpy() == pytest.approx(theirs.numpy(), abs=1e-4)
    everywhere = np.ones(A.shape[:3], bool)
    assert masked_psnr(A, B, everywhere) == pytest.approx(psnr(A, B))
    part = everywhere.copy()
    part[:, 20:] = False
    assert masked_psnr(A, B, part) == pytest.approx(psnr(A[:, :20], B[:, :20]))
    assert np.isnan(masked_psnr(A, B, ~everywhere)).all()


def test_ssim_is_torchmetrics_within_a_mask_too() -> None:
    """torchmetrics mirrors pictures at their edges; without that, windows that fit are the same."""
    how = {"data_range": 1.0, "reduction": "none", "return_full_image": True}
    a, b = tensor(A).double() / 255, tensor(B).double() / 255
    theirs, maps = structural_similarity_index_measure(a, b, **how)
    assert ssim(A, B, padded=True) == pytest.approx(theirs.numpy(), abs=1e-5)
    fit = maps.numpy()[:, :, 5:-5, 5:-5].mean((1, 2, 3))
    assert ssim(A, B) == pytest.approx(fit, abs=1e-5)
    mask = np.zeros(A.shape[:3], bool)
    mask[:, 12:30, 20:41] = True
    inside = maps.numpy()[:, :, 12:30, 20:41].mean((1, 2, 3))
    assert ssim_within(A, B, mask) == pytest.approx(inside, abs=1e-5)
    assert ssim_within(A, B, ~mask & mask).tolist() == pytest.approx([np.nan] * 3, nan_ok=True)


class Given(torch.nn.Module):
    """Features in the place of pictures, for torchmetrics' sets: they come as they are."""

    num_features = 12

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


def features(seed: int, shift: float) -> np.ndarray:
    return (np.random.default_rng(seed).normal(shift, 1, (60, 12))).astype(np.float32)


def test_kid_and_frechet_distance_are_torchmetrics() -> None:
    real, made = features(0, 0.0), features(1, 0.3)
    # one subset of all is the estimate itself; Given hands on what it gets
    theirs_kid = KernelInceptionDistance(feature=Given(), subsets=1, subset_size=60)
    theirs_fid = FrechetInceptionDistance(feature=Given(), input_img_size=(3, 2, 2))
    theirs_fid.set_dtype(torch.float64)
    for metric in (theirs_kid, theirs_fid):
        metric.update(torch.from_numpy(real).view(60, 3, 2, 2), real=True)
        metric.update(torch.from_numpy(made).view(60, 3, 2, 2), real=False)
    assert kid(real, made) == pytest.approx(float(theirs_kid.compute()[0]), abs=1e-4)
    ours = frechet_distance(torch.from_numpy(real), torch.from_numpy(made))
    assert ours == pytest.approx(float(theirs_fid.compute()), abs=1e-4)
