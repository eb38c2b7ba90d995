import pytest
import torch
from diffusers import AutoencoderKL
from hypothesis import given, settings
from hypothesis import strategies as st

from kontext.models.autoencoder.network import AttnBlock, Autoencoder, sample_posterior
from kontext.models.files.convert import autoencoder_config, rules_for, to_diffusers
from kontext.parallel.attention import attention
from schemas.sections.models import AutoencoderShape

SMALL = AutoencoderShape(ch=8, ch_mult=(1, 2, 2), num_res_blocks=1, z_channels=4, norm_groups=4)


def randomised(shape: AutoencoderShape, seed: int = 0) -> Autoencoder:
    ae = Autoencoder(shape)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in ae.parameters():
            p.normal_(0, 0.1, generator=g) if p.dim() > 1 else p.add_(
                0.1 * torch.randn(p.shape, generator=g)
            )
    return ae.eval()


@st.composite
def shapes(draw: st.DrawFn) -> AutoencoderShape:
    groups = draw(st.sampled_from((2, 4)))
    return AutoencoderShape(
        ch=groups * draw(st.integers(1, 3)),
        ch_mult=draw(st.sampled_from(((1, 2), (1, 2, 4), (1, 2, 4, 4)))),
        num_res_blocks=draw(st.integers(1, 2)),
        z_channels=draw(st.integers(1, 5)),
        norm_groups=groups,
    )


@settings(max_examples=6, deadline=None)
@given(shapes(), st.integers(0, 99))
def test_equals_diffusers(shape: AutoencoderShape, seed: int) -> None:
    ae = randomised(shape, seed)
    config = {k: v for k, v in autoencoder_config(ae).items() if k[0] != "_"}
    reference = AutoencoderKL(**config).eval()
    reference.load_state_dict(to_diffusers(ae.state_dict(), rules_for(ae)))
    g = torch.Generator().manual_seed(seed)
    images = torch.rand(2, 3, 16, 24, generator=g) * 2 - 1
    with torch.no_grad():
        posterior = reference.encode(images).latent_dist
        mean, logvar = ae.moments(images)
        assert (mean - posterior.mean).abs().max() <= 1e-4
        assert (logvar.clamp(-30, 20) - posterior.logvar).abs().max() <= 1e-4
        z = ae.encode(images)
        raw = z / reference.config.scaling_factor + reference.config.shift_factor
        assert (raw - posterior.mode()).abs().max() <= 1e-4
        assert (ae.decode(z) - reference.decode(raw).sample).abs().max() <= 1e-4


def test_the_wide_head_takes_no_kernel_chosen_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """FLUX.1's 512 channels are beyond flash kernels; narrower heads go by the common choice."""
    seen: list[int] = []

    def chosen(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        seen.append(q.shape[-1])
        return attention(q, k, v)

    monkeypatch.setattr("kontext.models.autoencoder.network.attention", chosen)
    for channels in (256, 512):
        block, x = AttnBlock(channels, 32).eval(), torch.randn(2, channels, 3, 5)
        n = block.norm(x)
        q, k, v = (y.flatten(2).transpose(1, 2) for y in (block.q(n), block.k(n), block.v(n)))
        weights = (q @ k.transpose(1, 2) / channels**0.5).softmax(-1)
        expected = x + block.proj_out((weights @ v).transpose(1, 2).reshape(x.shape))
        assert (block(x) - expected).abs().max() < 1e-5
    assert seen == [256]


def test_flux_autoencoder_has_its_published_size_and_names() -> None:
    with torch.device("meta"):
        ae = Autoencoder(AutoencoderShape())
    shapes = {k: tuple(v.shape) for k, v in ae.state_dict().items()}
    assert ae.factor == 8
    assert 83.0e6 < sum(p.numel() for p in ae.parameters()) < 84.5e6
    assert shapes["encoder.conv_out.weight"] == (32, 512, 3, 3)
    assert shapes["encoder.down.1.block.0.nin_shortcut.weight"] == (256, 128, 1, 1)
    assert shapes["encoder.down.2.downsample.conv.weight"] == (512, 512, 3, 3)
    assert shapes["encoder.mid.attn_1.q.weight"] == (512, 512, 1, 1)
    assert shapes["decoder.up.3.block.2.conv1.weight"] == (512, 512, 3, 3)
    assert shapes["decoder.up.0.block.0.nin_shortcut.weight"] == (128, 256, 1, 1)
    assert not any(k.startswith(("encoder.down.3.down", "decoder.up.0.up")) for k in shapes)


def test_normalisation_is_measured_set_and_kept() -> None:
    ae = randomised(SMALL)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        mean = ae.moments(images)[0]
        ae.set_latent_stats(scale=1 / mean.std().item(), shift=mean.mean().item())
        z = ae.encode(images)
        assert z.std().item() == pytest.approx(1, abs=1e-4)
        assert z.mean().item() == pytest.approx(0, abs=1e-4)
        assert torch.allclose(ae.decode(z), ae.decode_raw(mean), atol=1e-5)
    again = Autoencoder.from_config(ae.config())
    again.load_state_dict(ae.state_dict())
    assert torch.equal(again.encode(images), ae.encode(images))
    with pytest.raises(ValueError, match="positive"):
        ae.set_latent_stats(0.0, 0.0)


def test_channels_last_is_the_same_function() -> None:
    """In double precision: in float32 the two layouts add in another order on some processors."""
    ae = randomised(SMALL).double()
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    with torch.no_grad():
        plain = ae.decode(ae.encode(images))
        last = ae.to(memory_format=torch.channels_last)
        wide = last.decode(last.encode(images.to(memory_format=torch.channels_last)))
    assert (wide - plain).abs().max() < 1e-10


def test_autocast_is_near_full_precision() -> None:
    ae = randomised(SMALL)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        plain = ae.decode(ae.encode(images))
        with torch.autocast("cpu", torch.bfloat16):
            rough = ae.decode(ae.encode(images))
    assert (rough.float() - plain).abs().max() < 0.1 * plain.abs().max()


def test_every_parameter_gets_a_gradient() -> None:
    ae = randomised(SMALL)
    mean, logvar = ae.moments(torch.rand(2, 3, 16, 16) * 2 - 1)
    torch.manual_seed(0)
    z = sample_posterior(mean, logvar, torch.randn_like(mean))
    ae.decode_raw(z).square().mean().backward()
    # a key's bias moves all scores of a query alike, so softmax hides it
    silent = {n for n, p in ae.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9}
    assert silent <= {"encoder.mid.attn_1.k.bias", "decoder.mid.attn_1.k.bias"}


def test_posterior_sampling_has_the_right_spread() -> None:
    mean, logvar = torch.full((1, 1, 64, 64), 2.0), torch.full((1, 1, 64, 64), -2.0)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(3))
    a = sample_posterior(mean, logvar, noise)
    assert a.mean().item() == pytest.approx(2.0, abs=0.03)
    assert a.std().item() == pytest.approx(torch.tensor(-1.0).exp().item(), abs=0.02)
