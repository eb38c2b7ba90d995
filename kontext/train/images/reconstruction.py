"""Quality of an autoencoder's reconstructions and statistics of its latents, as metric cards.

A card says what a number is of (backbone with its digest, images, resolution, protocol), because
rFID and LPIPS of different backbones, sizes or image counts are different numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import sqrt

import torch
from torch import Tensor

from kontext.models.features.efficientnet import perceptual_distance
from kontext.train.images.perceptual import Backbone

_AT_ONCE = 64
_ENOUGH = 2048  # images below which a Frechet distance is mostly its own bias


@dataclass(frozen=True)
class MetricCard:
    """A number and what it takes to compare it with another."""

    name: str
    value: float
    unit: str
    better: str  # higher, lower
    images: int
    side: int  # pixels; where sizes differ, of a square of as many pixels, on average
    backbone: str  # with its digest; "none" for pixels alone
    protocol: str
    caveat: str = ""


def cards(
    real: Sequence[Tensor],
    fake: Sequence[Tensor],
    decibels: float,
    similarity: float,
    backbone: Backbone,
    name: str,
    levels: tuple[int, ...],
) -> list[MetricCard]:
    """PSNR, SSIM, LPIPS and rFID of reconstructions `fake` of held-out images `real`.

    Args:
        real, fake: uint8 [N, 3, H, W] per size.
        decibels, similarity: mean PSNR and SSIM, measured by the caller.
        name: the backbone's.
        levels: of its maps that LPIPS compares.
    """
    count = sum(map(len, real))
    pixels_each = sum(part[:, 0].numel() for part in real) / count
    distance, frechet = perceptual_scores(real, fake, backbone, levels)
    card = partial(MetricCard, images=count, side=round(sqrt(pixels_each)))
    pixels = partial(card, better="higher", backbone="none")
    deep = partial(card, unit="", better="lower", backbone=f"{name} ({backbone.digest})")
    few = f"{count} images: biased upwards, compare at the same count" if count < _ENOUGH else ""
    return [
        pixels("psnr", decibels, unit="dB", protocol="uint8, mean over images"),
        pixels(
            "ssim",
            similarity,
            unit="",
            protocol="kontext.data.quality.pixels.ssim, mean over images",
        ),
        deep(
            "lpips",
            distance,
            protocol=f"channel-normalised maps at levels {list(levels)}, squared, averaged",
            caveat="LPIPS's form without its learned weights",
        ),
        deep(
            "rfid",
            frechet,
            protocol="Frechet distance of pooled embeddings at the images' own size",
            caveat=few,
        ),
    ]


@torch.no_grad()
def perceptual_scores(
    real: Sequence[Tensor], fake: Sequence[Tensor], backbone: Backbone, levels: tuple[int, ...]
) -> tuple[float, float]:
    """(mean perceptual distance, Frechet distance) of images and reconstructions.

    Args:
        real, fake: uint8 [N, 3, H, W] per size.
    """
    distances, pooled = [], ([], [])  # type: ignore[var-annotated]
    some = [[x for part in images for x in _in_turn(part)] for images in (real, fake)]
    for both in zip(*some, strict=True):
        found = []
        for images, embeddings in zip(both, pooled, strict=True):
            maps = backbone.maps(images.float() / 255, levels=levels)
            embeddings.append(backbone.pool(maps[-1]).cpu())
            found.append(maps)
        distances.append(perceptual_distance(*found).cpu())
    one, other = (torch.cat(parts) for parts in pooled)
    return float(torch.cat(distances).mean()), frechet_distance(one, other)


def _in_turn(images: Tensor) -> list[Tensor]:
    """Some images at a time."""
    return [images[start : start + _AT_ONCE] for start in range(0, len(images), _AT_ONCE)]


def frechet_distance(one: Tensor, other: Tensor) -> float:
    """Between Gaussians fitted to embeddings [N, D] and [M, D] (Heusel et al., arXiv 1706.08500).

    The trace of the covariances' root is the nuclear norm of A B^T, of centred embeddings A and B
    over the root of their counts: no root of a matrix, and at most D x D numbers.
    """
    means = [x.double().mean(0) for x in (one, other)]
    halves = [_half(x.double() - m) for x, m in zip((one, other), means, strict=True)]
    spread = sum(float(half.square().sum()) for half in halves)
    shared = float(torch.linalg.matrix_norm(halves[0] @ halves[1].T, ord="nuc"))
    return max(0.0, float((means[0] - means[1]).square().sum()) + spread - 2 * shared)


def _half(centred: Tensor) -> Tensor:
    """H with H^T H the covariance, and no more rows than columns."""
    half = centred / sqrt(max(1, len(centred) - 1))
    if len(half) <= half.shape[1]:
        return half
    triangle: Tensor = torch.linalg.qr(half, mode="r").R
    return triangle


def latent_spectrum(latents: Tensor, bands: int = 8) -> list[float]:
    """Share of the latents' variance in each band of spatial frequency, lowest first.

    White noise has shares that grow with a band's size; an autoencoder whose high bands do not fall
    off hands the flow detail that it cannot predict.

    Args:
        latents: [B, C, h, w]. Frequencies are cycles per latent up to the half diagonal's 0.71.
    """
    centred = latents.float() - latents.float().mean(dim=(0, 2, 3), keepdim=True)
    power = torch.fft.fft2(centred, norm="ortho").abs().square().mean(dim=(0, 1))
    rows, columns = (torch.fft.fftfreq(n, device=power.device) for n in power.shape)
    radius = (rows[:, None].square() + columns[None].square()).sqrt()
    band = (radius / 0.5**0.5 * bands).long().clamp(max=bands - 1)
    total = torch.zeros(bands, device=power.device).index_add_(0, band.flatten(), power.flatten())
    shares: list[float] = (total / power.sum().clamp(min=1e-12)).tolist()
    return shares


def latent_health(latents: Tensor, places: int = 4) -> dict[str, Sequence[float] | float]:
    """Statistics of latents: deviation and mean per channel, their correlation, the spectrum."""
    flat = latents.float().transpose(0, 1).flatten(1)
    # a dead channel correlates with nothing
    mixing = torch.corrcoef(flat).nan_to_num() * (1 - torch.eye(len(flat), device=flat.device))
    return {
        "channel_std": [round(float(v), places) for v in flat.std(dim=1)],
        "channel_mean": [round(float(v), places) for v in flat.mean(dim=1)],
        "most_correlated": round(float(mixing.abs().max()), places),
        "spectrum": [round(value, places) for value in latent_spectrum(latents)],
    }
