"""Batches of images: what an autoencoder's step takes."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class ImageBatch:
    """Some rows of one global batch of pictures: all of it, or what one rank computes."""

    pixels: Tensor  # uint8 [b, 3, H, W]
    first: int  # row of the global batch where these begin
    total: int  # rows of the global batch

    @property
    def share(self) -> float:
        """Of the global batch."""
        return len(self.pixels) / self.total

    def own(self, values: Tensor) -> Tensor:
        """These rows of something drawn for the global batch [total, ...]."""
        return values[self.first : self.first + len(self.pixels)]


class ImageSource(Protocol):
    """Where an autoencoder's batches come from."""

    def __len__(self) -> int:
        """Images of an epoch."""

    def batch(self, index: int) -> ImageBatch:
        """The rows of step `index` that this process computes; the same however often asked."""
