import numpy as np
import pytest
import torch

from kontext.edit.codec import PictureCodec
from tests.edit.test_edit_model import networks, photo


@pytest.fixture
def codec() -> PictureCodec:
    return PictureCodec(networks()[1].requires_grad_(False).eval(), autocast=False)


def test_pictures_go_through_the_autoencoder_together_up_to_a_number_of_pixels(
    codec: PictureCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    real = codec.autoencoder.decode

    def decode(latents: torch.Tensor, tiling: object) -> torch.Tensor:
        sizes.append(len(latents))
        return real(latents, None)

    monkeypatch.setattr(codec.autoencoder, "decode", decode)
    images = np.stack([np.roll(photo(), n) for n in range(5)])
    latents = codec.encode(images)
    together = codec.decode(latents)
    codec.tile_above = 2 * 32 * 32
    parted = codec.decode(latents)
    assert sizes == [5, 2, 2, 1]
    assert together.shape == images.shape and together.dtype == np.uint8
    assert np.abs(together.astype(int) - parted).max() <= 1
    assert torch.allclose(codec.encode(images), latents, atol=1e-5)


def test_weights_in_bf16_work_where_bf16_is_not_fast() -> None:
    model = networks()[1].requires_grad_(False).eval()
    exact = PictureCodec(model, autocast=False)
    images = photo()[None]
    wanted = exact.encode(images)
    rounded = PictureCodec(model.bfloat16(), autocast=False)
    latents = rounded.encode(images)
    assert latents.dtype == torch.float32
    assert float((latents - wanted).abs().max()) < 0.1 * float(wanted.abs().max())
    assert rounded.decode(latents).shape == images.shape


def test_detail_is_restored_from_the_originals(codec: PictureCodec) -> None:
    images = photo()[None]
    latents = codec.encode(images)
    assert np.abs(codec.decode(latents).astype(int) - images).max() > 20  # it is untrained
    restored = codec.decode(latents, images, latents)
    assert np.abs(restored.astype(int) - images).max() <= 1
