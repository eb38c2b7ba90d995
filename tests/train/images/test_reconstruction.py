import pytest
import torch

from kontext.models.features.efficientnet import FeatureNet
from kontext.train.images.reconstruction import (
    cards,
    frechet_distance,
    latent_health,
    latent_spectrum,
    perceptual_scores,
)


@pytest.mark.parametrize("count", [12, 200])
def test_frechet_distance_is_the_formula_with_a_matrix_root(count: int) -> None:
    """Fewer samples than dimensions, and more: the covariance's root taken by eigenvalues."""
    draw = torch.Generator().manual_seed(0)
    one = torch.randn(count, 20, generator=draw)
    other = 1.5 * torch.randn(count + 3, 20, generator=draw) + 0.3
    c1, c2 = (torch.cov(x.double().T) for x in (one, other))
    trace = torch.linalg.eigvals(c1 @ c2).real.clamp(min=0).sqrt().sum()
    apart = (one.double().mean(0) - other.double().mean(0)).square().sum()
    expected = float(apart + c1.trace() + c2.trace() - 2 * trace)
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-4)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-6)


def test_distances_grow_with_the_damage_and_are_zero_without() -> None:
    draw = torch.Generator().manual_seed(1)
    real = torch.randint(0, 256, (70, 3, 32, 32), generator=draw, dtype=torch.uint8)
    net = FeatureNet().requires_grad_(False).eval()
    noise = torch.randn(real.shape, generator=draw)
    little, much = ((real + a * noise).clamp(0, 255).to(torch.uint8) for a in (10, 80))
    scores = [perceptual_scores([real], [x], net, (0, 1, 4)) for x in (real, little, much)]
    assert scores[0] == pytest.approx((0, 0), abs=1e-4)
    assert scores[0][0] < scores[1][0] < scores[2][0]
    assert scores[0][1] < scores[1][1] < scores[2][1]


def test_a_card_says_what_its_number_is_of() -> None:
    real = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    net = FeatureNet().requires_grad_(False).eval()
    found = {card.name: card for card in cards([real], [real], 30.0, 0.9, net, "A net", (0, 4))}
    assert set(found) == {"psnr", "ssim", "lpips", "rfid"}
    assert found["psnr"].backbone == "none" and found["rfid"].backbone == "A net (random)"
    assert "6 images: biased upwards" in found["rfid"].caveat and found["lpips"].side == 32
    assert "levels [0, 4]" in found["lpips"].protocol
    assert found["psnr"].unit == "dB"


def test_the_spectrum_tells_smooth_latents_from_noise() -> None:
    draw = torch.Generator().manual_seed(2)
    noise = torch.randn(16, 4, 16, 16, generator=draw)
    rows = torch.arange(16.0)
    wave = torch.cos(2 * torch.pi * rows / 16).expand(16, 4, 16, 16)
    nyquist = ((-1.0) ** rows).expand(16, 4, 16, 16)
    for latents in (noise, wave, nyquist):
        assert sum(latent_spectrum(latents)) == pytest.approx(1)
    assert latent_spectrum(wave)[0] > 0.99
    assert latent_spectrum(nyquist)[5] > 0.99  # 0.5 of at most 0.71 cycles per latent
    shares = latent_spectrum(noise, bands=2)
    assert shares[0] == pytest.approx(torch.pi * (0.5**0.5 / 2) ** 2, abs=0.05)  # a disc's area


def test_health_finds_a_dead_and_a_doubled_channel() -> None:
    latents = torch.randn(8, 4, 8, 8)
    latents[:, 1] = 0
    latents[:, 3] = latents[:, 2] + 0.01 * torch.randn(8, 8, 8)
    health = latent_health(latents)
    assert health["channel_std"][1] == 0 and health["most_correlated"] > 0.99  # type: ignore[index,operator]
