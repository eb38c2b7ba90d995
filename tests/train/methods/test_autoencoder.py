import pytest
import torch

from kontext.models.autoencoder.network import Autoencoder
from kontext.models.features.efficientnet import load_features
from kontext.train.images.perceptual import VggFeatures
from kontext.train.loop.fit import fit
from kontext.train.methods.autoencoder import (
    AutoencoderMethod,
    adaptive_weight,
    add_latent_noise,
    codec_work,
    hinge,
    kl_divergence,
    measure_latents,
    psnr,
    reconstruct,
)
from schemas.sections.models import AutoencoderShape
from schemas.sections.training import AutoencoderConfig


def images(n: int = 8) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 256, (n, 3, 4, 4), generator=draw, dtype=torch.uint8)
    return coarse.repeat_interleave(8, 2).repeat_interleave(8, 3)


def config(**changes: object) -> AutoencoderConfig:
    values = {
        "shape": AutoencoderShape(ch=16, ch_mult=(1, 1, 1, 1), num_res_blocks=1, norm_groups=4),
        "steps": 6,
        "batch": 4,
        "warmup": 1,
        "perceptual_start": 2,
        "disc_start": 4,
        "disc_channels": 8,
    }
    return AutoencoderConfig.model_validate({**values, **changes})


def test_terms_start_when_the_recipe_says() -> None:
    history = fit(AutoencoderMethod(config(), images(), load_features()))
    assert all("perceptual" not in row for row in history[:2])
    assert all({"perceptual", "embedding"} <= set(row) for row in history[2:])
    assert all(("critic" in row) == (row["step"] >= 4) for row in history)


def test_it_learns_to_rebuild() -> None:
    method = AutoencoderMethod(
        config(steps=60, batch=8, perceptual_start=999, disc_start=999, lr=1e-2), images(), None
    )
    before = psnr(reconstruct(method.model, images()), images()).mean()
    fit(method)
    assert psnr(reconstruct(method.model, images()), images()).mean() > before + 3


def test_noise_is_in_units_of_the_latents_and_comes_from_the_draw() -> None:
    latents = 7 * torch.randn(400, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    noisy = add_latent_noise(latents, 0.5, torch.Generator().manual_seed(2))
    levels = (noisy - latents).std((1, 2, 3)) / latents.std()
    assert 0 <= levels.min() < 0.05 and 0.4 < levels.max() < 0.7  # uniform from 0 to 0.5
    assert levels.mean() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(noisy, add_latent_noise(latents, 0.5, torch.Generator().manual_seed(2)))


def test_a_decoder_trained_with_noise_reads_through_it() -> None:
    errors = {}
    for noise in (0.0, 1.0):
        settings = config(
            steps=150,
            batch=8,
            perceptual_start=999,
            disc_start=999,
            lr=1e-2,
            latent_noise=noise,
            latent_noise_start=20,
        )
        method = AutoencoderMethod(settings, images(), None)
        fit(method)
        real = images().float() / 127.5 - 1
        with torch.no_grad():
            mean, _ = method.model.moments(real)
            noisy = mean + mean.std() * torch.randn(
                mean.shape, generator=torch.Generator().manual_seed(3)
            )
            errors[noise] = float((method.model.decode_raw(noisy) - real).abs().mean())
    assert errors[1.0] < 0.95 * errors[0.0]


def test_measured_scale_and_shift_normalise_the_latents() -> None:
    method = AutoencoderMethod(config(), images(), None)
    scale, shift = measure_latents(method.model, images())
    method.model.set_latent_stats(scale, shift)
    with torch.no_grad():
        latents = method.model.encode(images().float() / 127.5 - 1)
    assert float(latents.std()) == pytest.approx(1.0, abs=0.02)
    assert float(latents.mean()) == pytest.approx(0.0, abs=0.02)


def test_the_adaptive_weight_balances_the_last_layer() -> None:
    last = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    reconstruction, adversarial = (3 * last).sum(), (0.5 * last).sum()
    weight = adaptive_weight(reconstruction, adversarial, last)
    assert float(weight) == pytest.approx(6.0, rel=1e-3)
    assert not weight.requires_grad
    flat = (0 * last).sum()
    assert float(adaptive_weight(reconstruction, flat, last)) == 1e4


def test_kl_is_zero_for_the_prior_and_a_mean_over_elements() -> None:
    zero = torch.zeros(2, 4)
    assert float(kl_divergence(zero, zero)) == 0.0
    assert float(kl_divergence(zero + 2, zero)) == pytest.approx(2.0)
    assert float(kl_divergence((zero + 2).repeat(5, 1), zero.repeat(5, 1))) == pytest.approx(2.0)


def test_hinge_and_psnr_by_hand() -> None:
    assert float(hinge(torch.tensor([2.0, 0.0]), torch.tensor([-2.0, 0.0]))) == pytest.approx(0.5)
    a, b = torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.full((1, 3, 4, 4), 51)
    assert float(psnr(a, b)) == pytest.approx(13.979, abs=1e-3)


def test_the_decoder_alone_learns_and_latents_stay_what_they_were() -> None:
    settings = config(steps=60, batch=8, given="decoder", perceptual_start=999, disc_start=999)
    start = Autoencoder(settings.shape)
    before = {name: value.clone() for name, value in start.state_dict().items()}
    method = AutoencoderMethod(settings, images(), None, start)
    history = fit(method)
    assert history[-1]["l1"] < 0.9 * history[0]["l1"]
    for name, value in method.model.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("encoder."), name


def test_vgg_can_take_the_backbones_place() -> None:
    net = VggFeatures().requires_grad_(False).eval()
    history = fit(AutoencoderMethod(config(steps=3, perceptual="vgg16"), images(), net))
    assert history[2]["perceptual"] > 0
    costs = [
        codec_work(config(perceptual=name, perceptual_start=0), (32, 32))(0).flops or 0
        for name in ("efficientnet-lite0", "vgg16")
    ]
    assert costs[1] > 2 * costs[0]
