import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kontext.models.autoencoder.network import Autoencoder
from kontext.models.autoencoder.tiling import Norm, _spans
from schemas.sections.models import AutoencoderShape

SHAPE = AutoencoderShape(ch=8, ch_mult=(1, 2, 2), num_res_blocks=1, z_channels=4, norm_groups=4)


def autoencoder(shape: AutoencoderShape = SHAPE) -> Autoencoder:
    """Random weights, so that no norm is plain and no bias zero."""
    ae, draw = Autoencoder(shape).eval(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in ae.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=draw))
    return ae


def uneven(batch: int, height: int, width: int) -> torch.Tensor:
    """Flat on the left, noise on the right: every tile's own statistics differ."""
    draw = torch.Generator().manual_seed(2)
    noise = torch.rand(batch, 3, height, width, generator=draw) * 2 - 1
    return noise * torch.linspace(0, 1, width).square() + 0.3


@torch.no_grad()
@pytest.mark.parametrize("blocks", [1, 2])
def test_tiles_give_what_the_whole_image_gives(blocks: int) -> None:
    ae = autoencoder(SHAPE.model_copy(update={"num_res_blocks": blocks}))
    images, tile = uneven(2, 40, 68), 16
    whole = ae.encode(images)
    assert (ae.encode(images, tile) - whole).abs().max() <= 1e-5 * whole.abs().max()
    pixels = ae.decode(whole)
    assert (ae.decode(whole, tile) - pixels).abs().max() <= 1e-5 * pixels.abs().max()
    assert all(m.statistics is None for m in ae.modules() if isinstance(m, Norm))


@torch.no_grad()
def test_far_less_is_alive_at_a_time() -> None:
    """The largest activation that a norm sees, in tiles and in one piece."""
    ae, seen = autoencoder(), []
    for norm in (m for m in ae.modules() if isinstance(m, Norm)):
        norm.register_forward_pre_hook(lambda _, given: seen.append(given[0].numel()))
    images = uneven(1, 128, 128)
    latents = ae.encode(images)
    ae.decode(latents)
    whole = max(seen)
    seen.clear()
    ae.decode(ae.encode(images, 32), 32)
    assert max(seen) < whole / 4


@torch.no_grad()
def test_an_image_of_one_tile_is_not_cut() -> None:
    ae, images = autoencoder(), uneven(1, 16, 16)
    assert torch.equal(ae.encode(images, 16), ae.encode(images))


def test_a_failure_leaves_the_norms_as_they_were() -> None:
    ae = autoencoder()
    broken = uneven(1, 32, 32)[:, :2]
    with pytest.raises(RuntimeError):
        ae.encode(broken, 16)
    assert all(m.statistics is None for m in ae.modules() if isinstance(m, Norm))


def test_impossible_cuts_are_refused() -> None:
    with pytest.raises(ValueError, match="whole cells"):
        autoencoder().encode(uneven(1, 33, 32), 16)
    with pytest.raises(ValueError, match="at least 2 pixels"):
        autoencoder().encode(uneven(1, 32, 32), 1)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 500), st.integers(1, 64), st.integers(0, 9))
def test_cores_cover_a_side_once_and_keep_their_halo(length: int, core: int, halo: int) -> None:
    spans = _spans(length, core, halo)
    assert [i for s in spans for i in range(s.first, s.last)] == list(range(length))
    for span in spans:
        assert 1 <= span.last - span.first <= core
        assert span.start == max(0, span.first - halo)
        assert span.stop == min(length, span.last + halo)
