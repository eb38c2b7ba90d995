"""The autoencoder step: L1 + perceptual + KL, and a PatchGAN with adaptive weight, started late.

The recipe is LDM's (Rombach et al. 2022, `contperceptual.py`), with means instead of sums: the KL
weight multiplies the mean over latent elements. The adaptive weight balances gradients at the
decoder's last layer, so the adversarial term never outgrows the reconstruction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from kontext.data.buckets import Size
from kontext.data.shards.image_batch import ImageBatch, ImageSource
from kontext.models.autoencoder.network import Autoencoder, sample_posterior
from kontext.models.autoencoder.patchgan import SMALLEST, PatchDiscriminator
from kontext.models.precision import autocast, compute_dtype
from kontext.parallel.ranks.inputs import Inputs
from kontext.parallel.world import World
from kontext.train.images.perceptual import (
    Backbone,
    feature_distances,
    load_backbone,
    unloaded_backbone,
)
from kontext.train.loop.clock import Work, waiting
from kontext.train.loop.fit import Measure, generator
from kontext.train.loop.state import Ema, TrainState, take_step
from kontext.train.optim.build import adamw, build_optimizers, scale_rates, warmup_cosine
from schemas.sections.training import AutoencoderConfig

_PIXELS_AT_ONCE = 2**21  # that are measured together


def build(config: AutoencoderConfig, inputs: Inputs, world: World) -> AutoencoderMethod:
    """Autoencoder training on the images of shard's train split.

    `inputs.model` is trained on; without it a fresh one of the recipe's shape.

    Raises:
        RecipeError: pictures or crops are too small for the discriminator.
    """
    from kontext.data.shards.training_images import training_images

    images = training_images(config, inputs["shard"], inputs.scratch / "shards", world, SMALLEST)
    model = inputs.model
    assert model is None or isinstance(model, Autoencoder)
    return AutoencoderMethod(config, images, load_backbone(config, world.device), model, world)


class AutoencoderMethod:
    """One update: generator always, discriminator from `disc_start` on.

    Every rank holds the whole networks and computes its rows of the same global batch; gradients,
    the adaptive weight's among them, are summed over ranks. (An autoencoder is small, and the
    adaptive weight needs whole gradients: sharding it gains nothing.)

    Args:
        config: the recipe section.
        images: uint8 [N, 3, H, W] to draw batches from, or a source of batches.
        features: frozen feature network for the perceptual loss, or None to leave it out.
        model: starting weights, the same on all ranks; a fresh model where None.
        world: this process among the ranks; alone by default.

    Raises:
        RecipeError: a batch has fewer images than there are ranks.
    """

    def __init__(
        self,
        config: AutoencoderConfig,
        images: Tensor | ImageSource,
        features: Backbone | None,
        model: Autoencoder | None = None,
        world: World | None = None,
    ) -> None:
        torch.manual_seed(config.seed)
        self.config, self.features, self.images = config, features, images
        if isinstance(images, Tensor):
            self.world = world or World(device=images.device)
            self.source: ImageSource = ImagesInMemory(images, config, self.world)
        else:
            self.world, self.source = world or World(), images
        self.device = self.world.device
        self.world.check_batch(config.batch)
        self.model = (model or Autoencoder(config.shape)).to(self.device)
        if config.decoder_only:
            self.model.encoder.requires_grad_(False)
        self.critic = PatchDiscriminator(channels=config.disc_channels).to(self.device)
        self.total_steps = config.steps
        self.products = compute_dtype("auto", self.device)
        self.measure: Measure | None = None
        self.size: Size = (0, 0)  # of the images of a batch; known from the first step on
        optimizers = build_optimizers(self.model, config.optimizer, config.lr, groups=config.groups)
        self.state = TrainState(
            modules={"model": self.model, "critic": self.critic},
            optimizers={
                **{f"model.{i}": o for i, o in enumerate(optimizers)},
                "critic": adamw(self.critic.parameters(), config.lr_critic),
            },
            ema={"model": Ema(self.model, config.ema_decay)},
        )

    def step(self, index: int) -> Mapping[str, float]:
        """One generator update and, once started, one discriminator update."""
        c = self.config
        scale_rates(self.state.optimizers.values(), warmup_cosine(index, c.steps, c.warmup))
        with waiting():
            batch = self.source.batch(index)
        self.size = (batch.pixels.shape[3], batch.pixels.shape[2])
        real = batch.pixels.to(self.device).float() / 127.5 - 1
        noised = bool(c.latent_noise) and index >= c.latent_noise_start
        frozen = noised or c.decoder_only
        with autocast(self.device), torch.set_grad_enabled(not frozen):
            mean, logvar = self.model.moments(real)
        mean, logvar = mean.float(), logvar.float()
        latents = self._sampled(index, batch, mean, logvar)
        if noised:
            draw = generator(c.seed, index, "noise")
            part = (batch.total, batch.first, self.world.std(latents))
            latents = add_latent_noise(latents, c.latent_noise, draw, part)
        with autocast(self.device):
            fake = self.model.decode_raw(latents)
        fake = fake.float()
        losses = self._generator_losses(index, batch.share, real, fake, mean, logvar)
        total = torch.stack(list(losses.values())).sum()
        self._update("model", total, batch.share)
        report = {name: float(value.detach()) for name, value in losses.items()}
        if index >= c.disc_start:
            report["critic"] = self._critic_update(real, fake.detach(), batch.share)
        self.state.ema["model"].update(self.model)
        return self.world.sum({name: value * batch.share for name, value in report.items()})

    def work(self, index: int) -> Work:
        """What a step costs, once one has been done: see `codec_work`."""
        return self._work(index)

    @cached_property
    def _work(self) -> Callable[[int], Work]:
        return codec_work(self.config, self.size)

    def _sampled(self, index: int, batch: ImageBatch, mean: Tensor, logvar: Tensor) -> Tensor:
        """A sample of the posterior; its noise is drawn for the whole batch."""
        draw = generator(self.config.seed, index, "posterior")
        noise = torch.randn(batch.total, *mean.shape[1:], generator=draw)
        return sample_posterior(mean, logvar, batch.own(noise).to(mean.device))

    def _generator_losses(
        self, index: int, share: float, real: Tensor, fake: Tensor, mean: Tensor, logvar: Tensor
    ) -> dict[str, Tensor]:
        c = self.config
        losses = {"l1": (fake - real).abs().mean()}
        if self.features is not None and index >= c.perceptual_start:
            maps, pooled = feature_distances(self.features, real, fake, c.perceptual_levels)
            losses["perceptual"] = c.perceptual_weight * maps
            losses["embedding"] = c.embedding_weight * pooled
        losses["kl"] = c.kl_weight * kl_divergence(mean, logvar)
        if index >= c.disc_start:
            reconstruction = torch.stack([v for k, v in losses.items() if k != "kl"]).sum()
            with autocast(self.device):
                adversarial = -self.critic(fake).float().mean()
            last = self.model.decoder.last_weight
            weight = adaptive_weight(reconstruction * share, adversarial * share, last, self.world)
            losses["adversarial"] = c.disc_weight * weight * adversarial
        return losses

    def _critic_update(self, real: Tensor, fake: Tensor, share: float) -> float:
        with autocast(self.device):
            scores = self.critic(torch.cat((real, fake))).float()
        on_real, on_fake = scores.chunk(2)
        loss = hinge(on_real, on_fake)
        self._update("critic", loss, share)
        return float(loss.detach())

    def _update(self, name: str, loss: Tensor, share: float) -> None:
        optimizers = [o for k, o in self.state.optimizers.items() if k.split(".")[0] == name]
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        (loss * share).backward()  # type: ignore[no-untyped-call]
        take_step(self.state.modules[name], optimizers, 1.0, self.world)


def codec_work(config: AutoencoderConfig, size: Size) -> Callable[[int], Work]:
    """Cost of `AutoencoderMethod`'s steps on images of `size` (width, height) in pixels.

    Tokens are the 16 x 16 pixels that a transformer will take for one. Operations are counted on
    the meta device: the codec forward and backward; from `perceptual_start` the feature network,
    forward twice and backward once towards its inputs; from `disc_start` the critic, forward and
    backward towards its inputs for the codec, and forward and backward on two batches for itself.
    """
    codec, features, critic = _codec_passes(config, size)
    tokens = (size[0] // 16) * (size[1] // 16)

    def work(index: int) -> Work:
        flops = 3 * codec
        if index >= config.perceptual_start:
            flops += 3 * features
        if index >= config.disc_start:
            flops += (2 + 6) * critic
        return Work(config.batch * tokens, config.batch * flops)

    return work


def _codec_passes(config: AutoencoderConfig, size: Size) -> tuple[int, int, int]:
    """Forward operations of one image: codec, feature network, critic."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        image = torch.empty(1, 3, size[1], size[0])
        codec, critic = Autoencoder(config.shape), PatchDiscriminator(channels=config.disc_channels)
        features = unloaded_backbone(config)
    runs: tuple[Callable[[], object], ...] = (
        lambda: codec.decode_raw(codec.moments(image)[0]),
        lambda: features.maps(image, levels=config.perceptual_levels),
        lambda: critic(image),
    )
    counts = []
    for run in runs:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run()
        counts.append(int(counter.get_total_flops()))
    return counts[0], counts[1], counts[2]


class ImagesInMemory:
    """Batches drawn with replacement from pictures in memory, uint8 [N, 3, H, W]."""

    def __init__(self, images: Tensor, config: AutoencoderConfig, world: World) -> None:
        self._images, self._config = images, config
        self._rows = world.rows(config.batch)

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, index: int) -> ImageBatch:
        """The rows of step `index` that this rank computes."""
        c, rows = self._config, self._rows
        draw = generator(c.seed, index, "batch")
        picks = torch.randint(len(self._images), (c.batch,), generator=draw)
        return ImageBatch(self._images[picks[rows.start : rows.stop]], rows.start, c.batch)


def add_latent_noise(
    latents: Tensor, most: float, draw: torch.Generator, part: tuple[int, int, Tensor] | None = None
) -> Tensor:
    """Latents [B, C, h, w] with noise of 0 to `most` times their own spread, drawn per sample.

    A flow model's latents are never exact. A decoder that has seen only exact ones turns their
    errors into speckle; one trained on noisy latents does not (RAE, Zheng et al.
    2025, section 4.3, for frozen encoders).

    Args:
        part: where `latents` are some rows of a batch: its size, the first row, its spread.
    """
    size, first, spread = part or (len(latents), 0, latents.std())
    rows = slice(first, first + len(latents))
    level = most * torch.rand((size, 1, 1, 1), generator=draw)[rows].to(latents.device)
    noise = torch.randn((size, *latents.shape[1:]), generator=draw)[rows].to(latents.device)
    return latents + level * spread * noise


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL to the unit Gaussian, mean over all latent elements."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()


def hinge(on_real: Tensor, on_fake: Tensor) -> Tensor:
    """Hinge loss of a discriminator."""
    return 0.5 * (F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean())


def adaptive_weight(
    reconstruction: Tensor, adversarial: Tensor, last: Tensor, world: World | None = None
) -> Tensor:
    """|grad reconstruction| / |grad adversarial| at the last layer, clamped to [0, 1e4].

    Args:
        last: the last layer's weight.
        world: ranks whose losses, each a share of the global batch's, are summed.
    """
    both = [
        torch.autograd.grad(loss, last, retain_graph=True)[0]
        for loss in (reconstruction, adversarial)
    ]
    (world or World()).add(both)
    ratio: Tensor = both[0].norm() / (both[1].norm() + 1e-4)
    return ratio.clamp(0, 1e4).detach()


def images_at_once(images: Tensor) -> int:
    """How many images [N, C, H, W] are measured together: 128, or fewer large ones."""
    return min(128, max(1, _PIXELS_AT_ONCE // (images.shape[2] * images.shape[3])))


@torch.no_grad()
def measure_latents(model: Autoencoder, images: Tensor) -> tuple[float, float]:
    """(scale, shift) that make the modes of `images` zero-mean and unit-variance overall."""
    means, batch = [], images_at_once(images)
    for start in range(0, len(images), batch):
        with autocast(images.device):
            mean, _ = model.moments(images[start : start + batch].float() / 127.5 - 1)
        means.append(mean.float())
    modes = torch.cat(means)
    return float(1 / modes.std()), float(modes.mean())


@torch.no_grad()
def reconstruct(model: Autoencoder, images: Tensor) -> Tensor:
    """Round trip of uint8 [N, 3, H, W] through the mode, as uint8."""
    outputs, batch = [], images_at_once(images)
    for start in range(0, len(images), batch):
        with autocast(images.device):
            mean, _ = model.moments(images[start : start + batch].float() / 127.5 - 1)
            decoded = model.decode_raw(mean).float()
        outputs.append(((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8))
    return torch.cat(outputs)


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """PSNR in dB per image of two uint8 batches [N, 3, H, W]; infinite where equal."""
    error = (a.float() - b.float()).square().mean((1, 2, 3))
    decibels: Tensor = 10 * torch.log10(255.0**2 / error)
    return decibels
