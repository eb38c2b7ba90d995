"""Pictures to latents and back, for every edit."""

import logging
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from kontext.data.buckets import Size
from kontext.edit.canvas import Image, Images, to_tensor, to_uint8
from kontext.edit.detail import restore_detail
from kontext.edit.sizes import TILE_ABOVE
from kontext.models import precision
from kontext.models.autoencoder.network import Autoencoder
from kontext.models.autoencoder.tiling import TILE

_log = logging.getLogger("kontext")


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
            autocast: compute in bf16 where the device is faster with it, else as the weights are.
            tile_above: in pixels.
        """
        self.autoencoder, self.autocast, self.tile_above = autoencoder, autocast, tile_above
        weights = next(autoencoder.parameters())
        self.device, self._dtype = weights.device, weights.dtype

    @torch.no_grad()
    def encode(self, pictures: Sequence[Image] | Images) -> Tensor:
        """Latents [B, C, h, w], float32, of uint8 [H, W, 3] pictures of one size."""
        height, width = pictures[0].shape[:2]
        made, tile = [], self.tile((width, height))
        for rows in self._parts(len(pictures), (width, height)):
            pixels = to_tensor(pictures[rows]).to(self.device, self._dtype)
            with precision.autocast(self.device, self.autocast):
                made.append(self.autoencoder.encode(pixels, tile).float())
        return torch.cat(made)

    def decode(
        self,
        latents: Tensor,
        originals: Sequence[Image] | Images = (),
        encoded: Tensor | None = None,
    ) -> Images:
        """uint8 pictures [B, H, W, 3] of latents [B, C, h, w].

        Args:
            originals: the pictures that were edited, of the results' size. Where they are given
                their detail is restored (`kontext.edit.detail`).
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

    def tile(self, size: Size) -> int:
        """Side in pixels of the tiles of a picture of `size` (width, height); 0: in one piece."""
        small = size[0] * size[1] <= self.tile_above or max(size) <= TILE
        return 0 if small else TILE

    @torch.no_grad()
    def _decode(self, latents: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] in -1..1, float32."""
        size = self.size(latents)
        tile = self.tile(size)
        if tile:
            _log.info("%d x %d: decoded in tiles of %d pixels", *size, tile)
        with precision.autocast(self.device, self.autocast):
            pixels = self.autoencoder.decode(latents.to(self.device, self._dtype), tile)
        return pixels.float().clamp(-1, 1)

    def _parts(self, count: int, size: Size) -> Iterator[slice]:
        """Which of `count` pictures of one size go through the autoencoder together."""
        together = max(1, self.tile_above // (size[0] * size[1]))
        return (slice(low, low + together) for low in range(0, count, together))
