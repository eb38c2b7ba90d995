"""The flow's last steps, judged in decoded pictures."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from kontext.data.encoded.pair_tensors import gather
from kontext.errors import RecipeError
from kontext.models.autoencoder.network import Autoencoder
from kontext.models.flux.sequence import pack
from kontext.models.precision import full_precision
from kontext.train.flow.velocity import add_noise, change_weights, velocity
from kontext.train.loop.fit import fit
from kontext.train.methods.pictures import PictureMethod
from schemas.sections.models import AutoencoderShape
from tests.train.toy import toy_config, toy_model, toy_pairs

SETTINGS = {"steps": 60, "batch": 8, "lr": 5e-3, "warmup": 2}


class Features(nn.Module):
    """Two random convolutions in place of a trained network."""

    digest = "random"

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1)

    def maps(
        self, images: Tensor, side: int | None = None, levels: tuple[int, ...] = (0, 1)
    ) -> list[Tensor]:
        first = self.first(images).tanh()
        return [first, self.second(first).tanh()]

    def pool(self, deepest: Tensor) -> Tensor:
        return deepest.float().mean((2, 3))


def make(mask_weight: float = 0.0, **changes: object) -> PictureMethod:
    torch.manual_seed(0)
    shape = AutoencoderShape(
        ch=8, ch_mult=(1, 2, 2, 2), num_res_blocks=1, z_channels=4, norm_groups=4
    )
    codec = Autoencoder(shape, 1.0, 0.0).requires_grad_(False).eval()
    config = toy_config(
        pictures={**SETTINGS, **changes}, optimizer="adamw", mask_weight=mask_weight
    )
    features = Features().requires_grad_(False)
    return PictureMethod(config, toy_pairs(singles=0), toy_model(), codec, features)


def apart(method: PictureMethod) -> tuple[float, float]:
    """Mean picture distances of the model's estimates from noised targets, over all edits."""
    batch = gather(method.data, method.data.edits())
    clean = pack(batch.target)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(3))
    t = torch.full((len(noise),), 0.6)
    with torch.no_grad():
        noisy = add_noise(clean, noise, t)
        estimate = noisy - 0.6 * velocity(method.model, noisy, batch, t)
        latents = estimate.view(-1, 2, 2, 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(-1, 4, 4, 4)
        maps, embedding = method.decoded_distances(batch.target, latents)
    return float(maps), float(embedding)


def test_pictures_come_nearer_and_only_the_flow_learns() -> None:
    # a random codec and network tell pictures apart little: their distances weigh more here
    method = make(steps=150, perceptual_weight=100.0, embedding_weight=100.0)
    frozen = {
        name: p.clone()
        for net in (method.codec, method.features)
        for name, p in net.named_parameters()  # type: ignore[union-attr]
    }
    before = apart(method)
    fit(method)
    method.state.ema["model"].copy_to(method.model)
    after = apart(method)
    assert after[0] < 0.8 * before[0] and after[1] < before[1]
    for net in (method.codec, method.features):
        for name, p in net.named_parameters():  # type: ignore[union-attr]
            assert torch.equal(p, frozen[name]) and p.grad is None


def test_its_parts_are_what_they_say() -> None:
    method = make(mask_weight=2.0, perceptual_weight=0.5, embedding_weight=0.25)
    (part,) = method.parts_at(0)
    batch, noisy, t = part.batch, part.noisy, part.t
    with torch.no_grad():
        estimate = noisy - t.view(-1, 1, 1) * velocity(method.model, noisy, batch, t)
        assert batch.context is not None
        weights = change_weights(batch.target, batch.context, 2.0)
        latents = ((estimate - pack(batch.target)).square() * weights).mean()
    row = method.step(0)
    assert row["latents"] == pytest.approx(float(latents), rel=1e-3)
    total = row["latents"] + 0.5 * row["maps"] + 0.25 * row["embedding"]
    assert row["loss"] == pytest.approx(total, rel=1e-4)


def test_inputs_are_noised_edits_at_the_flows_own_levels() -> None:
    method = make()
    (part,) = method.parts_at(0)
    batch, noisy, t = part.batch, part.noisy, part.t
    clean = pack(batch.target)
    noise = (noisy - (1 - t.view(-1, 1, 1)) * clean) / t.view(-1, 1, 1)
    assert torch.allclose(add_noise(clean, noise, t), noisy, atol=1e-4)
    assert 0.5 < float(noise.std()) < 2 and float(t.min()) > 0 and float(t.max()) < 1


def test_equal_latents_are_no_distance_apart() -> None:
    method = make()
    latents = method.data.latents[:2]
    maps, embedding = method.decoded_distances(latents, latents)
    assert float(maps) == 0 and float(embedding) == pytest.approx(0, abs=1e-6)


def test_it_is_repeatable() -> None:
    assert fit(make(steps=3)) == fit(make(steps=3))


def test_a_split_without_edits_is_refused() -> None:
    method = make()
    nothing = replace(method.data, context=torch.full_like(method.data.context, -1))
    with pytest.raises(RecipeError, match="need edits"):
        PictureMethod(method.config, nothing, method.model, method.codec, method.features)


def test_an_accumulated_batch_is_the_batch() -> None:
    histories = []
    for accumulate in (1, 3):
        torch.manual_seed(0)
        method = make(steps=3)
        config = method.config.model_copy(update={"accumulate": accumulate})
        parts = PictureMethod(config, method.data, method.model, method.codec, method.features)
        assert len(parts.parts_at(0)) == accumulate
        with full_precision():
            histories.append(fit(parts))
    for one, other in zip(*histories, strict=True):
        # abs: the pooled distance is 1 - cosine, and next to 1 float32 has steps of 6e-8
        assert one == pytest.approx(other, rel=1e-4, abs=1e-7)


def test_a_batch_smaller_than_its_parts_is_refused() -> None:
    method = make()
    config = method.config.model_copy(update={"accumulate": 9})
    with pytest.raises(RecipeError, match="a batch of 8 is too small for 1 ranks times 9 parts"):
        PictureMethod(config, method.data, method.model, method.codec, method.features)
