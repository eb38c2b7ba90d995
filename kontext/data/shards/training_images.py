"""The pictures that train-autoencoder learns from: in memory, or streamed from shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kontext.data.shards.image_batch import ImageSource
from kontext.data.shards.image_stream import StreamedImages, linked_shards
from kontext.data.shards.read import load_split
from kontext.parallel.world import World
from kontext.store.artifacts.artifact_store import Artifact
from schemas.sections.training import AutoencoderConfig

MEASURED = 4096  # images that are looked at where a split has more than memory should hold


def training_images(
    config: AutoencoderConfig, shards: Artifact, folder: Path, world: World
) -> Tensor | StreamedImages:
    """All images of the train split uint8 [N, 3, H, W], or a stream of them; maybe none.

    Args:
        folder: where a stream's shards are linked.
    """
    there = any(name.endswith(".tar") for name in shards.names("train-"))
    if config.stream and there:
        linked = linked_shards(shards, "train", folder)
        return StreamedImages(linked, config.batch, config.seed, world)
    return split_images(shards, "train", world.device)


def split_images(
    shards: Artifact, split: str, device: torch.device, most: int | None = None
) -> Tensor:
    """The images of a split, uint8 [N, 3, H, W]; the first `most` by content id, or all."""
    pairs = load_split(shards, split)
    images = pairs.pixels(range(len(pairs.pngs))[:most])
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(device)


def some_images(images: Tensor | ImageSource, most: int = MEASURED) -> Tensor:
    """Images to measure on: all that are in memory, or the first `most` of a stream's epoch."""
    if isinstance(images, Tensor):
        return images
    parts: list[Tensor] = []
    while sum(map(len, parts)) < min(most, len(images)):
        parts.append(images.batch(len(parts)).pixels)
    return torch.cat(parts)[:most]
