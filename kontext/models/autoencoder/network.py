"""FLUX.1's image autoencoder (f8, KL), with BFL's parameter names.

`scale` and `shift` normalise latents: z = (mean - shift) * scale. They are measured after training
and are part of the configuration (`config()`), not of the state dict, so that the tensors are
exactly BFL's `ae.safetensors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kontext.models.autoencoder.tiling import Norm, in_tiles
from kontext.models.files.stored import load_stored
from kontext.parallel.attention import attention
from schemas.sections.models import AutoencoderShape

if TYPE_CHECKING:
    from kontext.store.artifacts.artifact_store import Artifact

_EPS = 1e-6
_FLASH_CHANNELS = 256
FLUX_SCALE, FLUX_SHIFT = 0.3611, 0.1159


class ResnetBlock(nn.Module):
    """Two (GroupNorm, swish, 3x3 conv) with a shortcut."""

    def __init__(self, in_ch: int, out_ch: int, groups: int) -> None:
        super().__init__()
        self.norm1 = Norm(groups, in_ch, eps=_EPS)
        self.conv1 = nn.Conv2d(in_ch, out_ch, 3, padding=1)
        self.norm2 = Norm(groups, out_ch, eps=_EPS)
        self.conv2 = nn.Conv2d(out_ch, out_ch, 3, padding=1)
        if in_ch != out_ch:
            self.nin_shortcut = nn.Conv2d(in_ch, out_ch, 1)
        self.same = in_ch == out_ch

    def forward(self, x: Tensor) -> Tensor:
        """x [B, in_ch, H, W] -> [B, out_ch, H, W]."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return (x if self.same else self.nin_shortcut(x)) + h  # type: ignore[no-any-return]


class AttnBlock(nn.Module):
    """Single-head attention over all positions."""

    def __init__(self, ch: int, groups: int) -> None:
        super().__init__()
        self.norm = Norm(groups, ch, eps=_EPS)
        self.q = nn.Conv2d(ch, ch, 1)
        self.k = nn.Conv2d(ch, ch, 1)
        self.v = nn.Conv2d(ch, ch, 1)
        self.proj_out = nn.Conv2d(ch, ch, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, ch, H, W] -> the same shape."""
        n = self.norm(x)
        q, k, v = (
            y.flatten(2).transpose(1, 2).unsqueeze(1) for y in (self.q(n), self.k(n), self.v(n))
        )
        # FLUX.1's one head has 512 channels, and flash kernels chosen by name end at 256
        wide = q.shape[-1] > _FLASH_CHANNELS
        seen = F.scaled_dot_product_attention(q, k, v)[:, 0] if wide else attention(q, k, v)
        out = seen.transpose(1, 2).reshape(x.shape)
        return x + self.proj_out(out)  # type: ignore[no-any-return]


class Downsample(nn.Module):
    """Stride-2 conv with padding on the right and bottom only."""

    def __init__(self, ch: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(ch, ch, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, ch, H, W] -> [B, ch, H/2, W/2]; H and W even."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # type: ignore[no-any-return]


class Upsample(nn.Module):
    """Nearest doubling, then a conv."""

    def __init__(self, ch: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(ch, ch, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, ch, H, W] -> [B, ch, 2H, 2W]."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))  # type: ignore[no-any-return]


class Level(nn.Module):
    """The blocks of one resolution, and the way to the next."""

    def __init__(self, in_ch: int, out_ch: int, blocks: int, groups: int, resample: str) -> None:
        super().__init__()
        self.block = nn.Sequential(
            *(ResnetBlock(in_ch if i == 0 else out_ch, out_ch, groups) for i in range(blocks))
        )
        self.resample = resample
        if resample == "down":
            self.downsample = Downsample(out_ch)
        elif resample == "up":
            self.upsample = Upsample(out_ch)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, in_ch, H, W] -> [B, out_ch, H, W]; `resample` halves or doubles H and W."""
        return self.resampled(self.block(x))

    def resampled(self, x: Tensor) -> Tensor:
        """At the next level's resolution."""
        if self.resample == "down":
            x = self.downsample(x)
        elif self.resample == "up":
            x = self.upsample(x)
        return x


class Middle(nn.Module):
    """Residual block, attention, residual block at the lowest resolution."""

    def __init__(self, ch: int, groups: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(ch, ch, groups)
        self.attn_1 = AttnBlock(ch, groups)
        self.block_2 = ResnetBlock(ch, ch, groups)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, ch, H, W] -> the same shape."""
        return self.block_2(self.attn_1(self.block_1(x)))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """Image -> 2 z_channels moments at 1/2^(levels-1) of the side."""

    def __init__(self, s: AutoencoderShape) -> None:
        super().__init__()
        widths = [s.ch * m for m in s.ch_mult]
        self.top = top = len(widths) - 1
        self.conv_in = nn.Conv2d(s.in_channels, s.ch, 3, padding=1)
        blocks, groups, before = s.num_res_blocks, s.norm_groups, [s.ch, *widths]
        self.down = nn.ModuleList(
            Level(before[i], width, blocks, groups, "down" if i < top else "")
            for i, width in enumerate(widths)
        )
        self.mid = Middle(widths[-1], s.norm_groups)
        self.norm_out = Norm(s.norm_groups, widths[-1], eps=_EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * s.z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [-1, 1] -> means, then log variances [B, 2z, H/8, W/8]."""
        for level in range(self.top):
            x = self.coarser(level, x)
        return self.coarse(x)

    def coarser(self, level: int, x: Tensor) -> Tensor:
        """One level above the latents' resolution, down to the next."""
        return self.down[level](self.conv_in(x) if level == 0 else x)  # type: ignore[no-any-return]

    def coarse(self, h: Tensor) -> Tensor:
        """The last level, at the latents' resolution, with attention over all of them."""
        h = self.mid(self.coarser(self.top, h))
        return self.conv_out(F.silu(self.norm_out(h)))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Latents -> image. `up.0` is the full resolution, so levels run from last to first."""

    def __init__(self, s: AutoencoderShape) -> None:
        super().__init__()
        widths = [s.ch * m for m in s.ch_mult]
        self.top = len(widths) - 1
        self.conv_in = nn.Conv2d(s.z_channels, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], s.norm_groups)
        blocks, groups, before = s.num_res_blocks + 1, s.norm_groups, [*widths[1:], widths[-1]]
        self.up = nn.ModuleList(
            Level(before[i], width, blocks, groups, "up" if i > 0 else "")
            for i, width in enumerate(widths)
        )
        self.norm_out = Norm(s.norm_groups, widths[0], eps=_EPS)
        self.conv_out = nn.Conv2d(widths[0], s.in_channels, 3, padding=1)

    @property
    def last_weight(self) -> Tensor:
        """The output layer's weight: the adaptive adversarial weight compares gradients there."""
        return self.conv_out.weight

    def forward(self, z: Tensor) -> Tensor:
        """Raw latents [B, z, h, w] -> images [B, 3, 8h, 8w], about [-1, 1]."""
        h = self.coarse(z)
        for level in range(self.top, 0, -1):
            h = self.finer(level, h)
        return h

    def coarse(self, z: Tensor) -> Tensor:
        """What is at the latents' resolution, with attention over all of them."""
        return self._blocks(self.top, self.mid(self.conv_in(z)))

    def finer(self, level: int, h: Tensor) -> Tensor:
        """From a level's resolution through the next finer one."""
        return self._blocks(level - 1, self.up[level].resampled(h))  # type: ignore[operator]

    def _blocks(self, level: int, h: Tensor) -> Tensor:
        h = self.up[level].block(h)  # type: ignore[operator]
        return h if level else self.conv_out(F.silu(self.norm_out(h)))


class Autoencoder(nn.Module):
    """Images in [-1, 1] to latents at 1/8 of the side, and back."""

    def __init__(
        self, shape: AutoencoderShape, scale: float = FLUX_SCALE, shift: float = FLUX_SHIFT
    ) -> None:
        super().__init__()
        self.shape = shape
        self.scale, self.shift = float(scale), float(shift)
        self.encoder = Encoder(shape)
        self.decoder = Decoder(shape)

    @property
    def factor(self) -> int:
        """Image pixels per latent pixel along one side (8 for FLUX.1)."""
        return int(2 ** (len(self.shape.ch_mult) - 1))

    def moments(self, images: Tensor, tile: int = 0) -> tuple[Tensor, Tensor]:
        """images [B, 3, H, W] in [-1, 1] -> (mean, logvar), each [B, z, H/8, W/8], raw.

        Args:
            tile: compute what lies above the latents' resolution in tiles of so many pixels a side
                (see `in_tiles`), without gradients; 0: in one piece.
        """
        encoder, h = self.encoder, images
        if not tile:
            made = encoder(h)
        else:
            halo = self.shape.num_res_blocks + 1  # two convs a block, one around, in halves
            for level in range(encoder.top):
                run = partial(encoder.coarser, level)
                h = in_tiles(encoder, run, h, units=(2, 1), halo=halo, tile=tile)
            made = encoder.coarse(h)
        mean, logvar = made.chunk(2, dim=1)
        return mean, logvar

    def encode(self, images: Tensor, tile: int = 0) -> Tensor:
        """Normalised latents from the distribution's mode: (mean - shift) * scale."""
        return (self.moments(images, tile)[0] - self.shift) * self.scale

    def decode(self, latents: Tensor, tile: int = 0) -> Tensor:
        """Normalised latents [B, z, h, w] -> images [B, 3, 8h, 8w], about [-1, 1], unclamped."""
        return self.decode_raw(latents / self.scale + self.shift, tile)

    def decode_raw(self, latents: Tensor, tile: int = 0) -> Tensor:
        """Decode latents that are not normalised (a sample of `moments`). `tile` as there."""
        decoder = self.decoder
        if not tile:
            return decoder(latents)  # type: ignore[no-any-return]
        h, halo = decoder.coarse(latents), self.shape.num_res_blocks + 2  # one block more
        for level in range(decoder.top, 0, -1):
            run = partial(decoder.finer, level)
            h = in_tiles(decoder, run, h, units=(1, 2), halo=halo, tile=tile)
        return h

    def set_latent_stats(self, scale: float, shift: float) -> None:
        """Set the measured normalisation. Latents encoded before this are no longer comparable."""
        if not scale > 0:
            raise ValueError(f"latent scale must be positive, not {scale}")
        self.scale, self.shift = float(scale), float(shift)

    def config(self) -> dict[str, Any]:
        """Everything `from_config` needs: shape, scale and shift."""
        return {
            "shape": self.shape.model_dump(mode="json"),
            "scale": self.scale,
            "shift": self.shift,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Autoencoder:
        """Build an untrained autoencoder from `config()`."""
        shape = AutoencoderShape.model_validate(config["shape"])
        return cls(shape, float(config["scale"]), float(config["shift"]))


def sample_posterior(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """mean + std * noise, all [B, C, h, w], with logvar clamped to [-30, 20]."""
    return mean + torch.exp(0.5 * logvar.clamp(-30.0, 20.0)) * noise


def load_autoencoder(artifact: Artifact, device: torch.device) -> Autoencoder:
    """The autoencoder of a train-autoencoder artifact, frozen. Raises WeightsError."""
    with torch.device("meta"):
        model = Autoencoder.from_config(artifact.json("config.json"))
    load_stored(model, artifact.path("autoencoder.safetensors"))
    return model.requires_grad_(False).eval().to(device)
