"""The one path of every edit: noise, encoded text and context latents in; latents and pictures out.

Three callers hold to it. `Editor` starts from pictures and instructions (`kontext edit`, and the
bench), `EditSampler` from encoded pairs (the teacher's edits, and what training measures), and the
sample grids of training decode what `EditSampler` draws. Nothing else samples or decodes an edit.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kontext.models import precision
from kontext.models.autoencoder import Autoencoder
from kontext.models.tiling import Tiling
from kontext.models.transformer import FluxTransformer
from kontext.sample.canvas import Image, Images, to_tensor, to_uint8
from kontext.sample.detail import restore_detail
from kontext.sample.euler import Guidance, Keep, OnStep, Prompt, sample
from kontext.sample.sizes import TILE_ABOVE, Size

_log = logging.getLogger("kontext")


def guidance_for(
    transformer: FluxTransformer, scale: float, image: float = 1.0, true_cfg: float = 1.0
) -> Guidance:
    """Guidance of strength `scale` in the form that this model takes.

    A model with a guidance embedding is given `scale` as an input. For others it is classifier-free
    guidance on the text.

    Args:
        image: classifier-free guidance on the context pictures.
        true_cfg: classifier-free guidance on the text of a model with a guidance embedding.
    """
    if transformer.shape.guidance_embed:
        return Guidance(true_cfg, image, embedded=scale)
    return Guidance(scale, image)


def denoise(
    transformer: FluxTransformer,
    start: Tensor,
    prompt: Prompt,
    contexts: Sequence[Tensor],
    *,
    guidance: Guidance,
    steps: int = 28,
    times: Tensor | None = None,
    empty: Prompt | None = None,
    keep: Keep | None = None,
    on_step: OnStep | None = None,
    autocast: bool = True,
) -> Tensor:
    """Latents [B, C, h, w] of edits, float32, on the transformer's device.

    The arguments are those of `kontext.sample.euler.sample`.

    Args:
        autocast: compute in bf16 where the device is faster with it.
    """
    device = transformer.img_in.weight.device
    with _precision(device, autocast):
        return sample(
            transformer,
            start.to(device),
            prompt,
            contexts,
            steps=steps,
            times=times,
            guidance=guidance,
            empty=empty,
            keep=keep,
            on_step=on_step,
        )


class PictureCodec:
    """An autoencoder between uint8 pictures and latents.

    Pictures of more than `tile_above` pixels pass it in tiles: a fraction of the memory, several
    times the computation, the same result up to rounding. As many smaller ones go together as have
    no more pixels than that.
    """

    def __init__(
        self, autoencoder: Autoencoder, autocast: bool = True, tile_above: int = TILE_ABOVE
    ) -> None:
        """Wrap a frozen autoencoder on the device that it lies on.

        Args:
            autocast: compute in bf16 where the device is faster with it.
            tile_above: in pixels.
        """
        self.autoencoder, self.autocast, self.tile_above = autoencoder, autocast, tile_above
        self.device = next(autoencoder.parameters()).device

    @torch.no_grad()
    def encode(self, pictures: Sequence[Image] | Images) -> Tensor:
        """Latents [B, C, h, w], float32, of uint8 [H, W, 3] pictures of one size."""
        height, width = pictures[0].shape[:2]
        made = []
        for rows in self._parts(len(pictures), (width, height)):
            pixels = to_tensor(pictures[rows]).to(self.device)
            with _precision(self.device, self.autocast):
                made.append(self.autoencoder.encode(pixels, self.tiling((width, height))).float())
        return torch.cat(made)

    def pictures(
        self,
        latents: Tensor,
        originals: Sequence[Image] | Images = (),
        encoded: Tensor | None = None,
    ) -> Images:
        """uint8 pictures [B, H, W, 3] of latents [B, C, h, w].

        Args:
            originals: the pictures that were edited, of the results' size. Where they are given
                their detail is restored (`kontext.sample.detail`).
            encoded: their latents.
        """
        made = []
        for rows in self._parts(len(latents), self.size(latents)):
            pixels = self._decode(latents[rows])
            if encoded is not None:
                context = to_tensor(originals[rows]).to(pixels)
                pixels = restore_detail(pixels, self._decode(encoded[rows]), context)
            made.append(to_uint8(pixels))
        return np.concatenate(made)

    def size(self, latents: Tensor) -> Size:
        """(width, height) in pixels of what latents [B, C, h, w] decode to."""
        factor = self.autoencoder.factor
        return latents.shape[3] * factor, latents.shape[2] * factor

    def tiling(self, size: Size) -> Tiling | None:
        """How a picture of `size` (width, height) is cut into tiles; None: not at all."""
        tiling = Tiling()
        small = size[0] * size[1] <= self.tile_above or max(size) <= tiling.side
        return None if small else tiling

    @torch.no_grad()
    def _decode(self, latents: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] in -1..1, float32."""
        width, height = self.size(latents)
        tiling = self.tiling((width, height))
        if tiling is not None:
            _log.info("%d x %d: decoded in tiles of %d pixels", width, height, tiling.side)
        with _precision(self.device, self.autocast):
            pixels = self.autoencoder.decode(latents.to(self.device), tiling)
        return pixels.float().clamp(-1, 1)

    def _parts(self, count: int, size: Size) -> Iterator[slice]:
        """Which of `count` pictures of one size go through the autoencoder together."""
        together = max(1, self.tile_above // (size[0] * size[1]))
        return (slice(low, low + together) for low in range(0, count, together))


def _precision(device: torch.device, autocast: bool) -> AbstractContextManager[Any]:
    return precision.autocast(device) if autocast else nullcontext()
