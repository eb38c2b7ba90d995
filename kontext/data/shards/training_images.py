"""The pictures that train-autoencoder learns from: in memory, or streamed from shards."""

from __future__ import annotations

from contextlib import suppress
from itertools import accumulate
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kontext.data.pixels import Pixels
from kontext.data.shards.image_batch import ImageBatch, ImageSource
from kontext.data.shards.index import load_index, tokens_of
from kontext.data.shards.read import by_size, load_split
from kontext.data.shards.stream import Batches, PairStream, StreamPlan
from kontext.errors import RecipeError
from kontext.parallel.world import World
from kontext.store.artifacts.artifact_store import Artifact
from kontext.store.objects import open_store
from schemas.sections.training import AutoencoderConfig

IN_MEMORY = 2 << 30  # bytes of decoded pictures that are held; more are streamed
MEASURED = 4096  # images that are looked at where a split has more than memory should hold


def training_images(
    config: AutoencoderConfig, shards: Artifact, folder: Path, world: World, smallest: int = 1
) -> Tensor | StreamedImages:
    """All images of the train split uint8 [N, 3, H, W], or a stream of them; maybe none.

    Images of several sizes, and those that are more than `IN_MEMORY`, are streamed. Without
    `config.crop`, whole images come where all have one size, else crops that all have room for.

    Args:
        folder: where a stream's shards are linked.
        smallest: side of what may come, in pixels.

    Raises:
        RecipeError: pictures, or the crops that are asked for, are smaller.
    """
    pairs = load_split(shards, "train")
    sizes = [pairs.size(row) for row in range(len(pairs.pngs))]
    held = sum(3 * width * height for width, height in sizes)
    mixed = len(set(sizes)) > 1
    shortest = min(map(min, sizes), default=smallest)
    side = config.crop or shortest
    if side < smallest:
        raise RecipeError(
            f"the autoencoder trains on {side} pixels a side, and needs {smallest} at least: see "
            "autoencoder.crop, ingest.sizes and ingest.resolution"
        )
    if pairs.rows and (mixed or config.crop or held > IN_MEMORY):
        linked = linked_shards(shards, "train", folder)
        crop = config.crop or (shortest if mixed else 0)
        return StreamedImages(linked, config.batch, config.seed, world, crop)
    images = split_images(shards, "train", world.device)
    return images[0] if images else torch.zeros(0, 3, 0, 0, dtype=torch.uint8)


def split_images(
    shards: Artifact, split: str, device: torch.device, most: int | None = None
) -> list[Tensor]:
    """A split's images, uint8 [N, 3, H, W] per size; the first `most` by content id, or all.

    With `most` no more than half of `IN_MEMORY` holds, and one at least.
    """
    pairs = load_split(shards, split)
    rows = range(len(pairs.pngs))[:most]
    if most is not None:
        bytes_up_to = accumulate(3 * prod(pairs.size(row)) for row in rows)
        rows = rows[: max(1, sum(held <= IN_MEMORY // 2 for held in bytes_up_to))]
    grouped = by_size(rows, pairs.size)
    return [_channels_first(pairs.pixels(rows)).to(device) for rows in grouped.values()]


def _channels_first(images: Pixels) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def some_images(images: Tensor | ImageSource, most: int = MEASURED) -> Tensor:
    """Images to measure on: all that are in memory, or the first `most` of a stream's epoch.

    Of a stream no more than half of `IN_MEMORY` holds.
    """
    if isinstance(images, Tensor):
        return images
    parts = [images.batch(0).pixels]
    most = min(most, max(1, IN_MEMORY // 2 // parts[0][0].numel()))
    while sum(map(len, parts)) < min(most, len(images)):
        parts.append(images.batch(len(parts)).pixels)
    return torch.cat(parts)[:most]


class StreamedImages:
    """The targets of a split's pairs, each once per epoch, in an order fixed by the seed.

    Every rank reads only its own rows. Step k is always the k-th batch, so a run that was killed
    goes on with the pictures that an unbroken one would see.

    Args:
        folder: of shards; their index is made there once.
        batch: pictures of a global batch; the last of an epoch is smaller, and left out where
            there would be fewer pictures than ranks.
        crop: side of the random square of each picture that comes, in pixels; 0: whole pictures,
            which must then have one size.

    Raises:
        ArtifactError: no shards in the folder, or (from `batch`) a damaged one.
        RecipeError: a picture is smaller than the crop.
    """

    def __init__(self, folder: Path, batch: int, seed: int, world: World, crop: int = 0) -> None:
        store = open_store(f"file://{folder.absolute()}")
        tokens = max(target for target, *_ in load_index(store, "").image_tokens)
        tokens = tokens_of((crop, crop)) if crop else tokens
        plan = StreamPlan(batch * tokens, seed=seed, contexts=False, crop=crop)
        self._stream = PairStream(store, "", plan, world)
        self._world = world
        self._next, self._coming = 0, self._from(0)

    def __len__(self) -> int:
        """Pictures of an epoch."""
        return len(self._stream.index)

    def batch(self, index: int) -> ImageBatch:
        """The rows of step `index` that this rank computes; quickest one after the other."""
        if index != self._next:
            self._coming.close()
            self._coming = self._from(index)
        found = next(found for found in self._coming if found.total >= self._world.size)
        self._next = index + 1
        return ImageBatch(_channels_first(found.targets()), found.rows.start, found.total)

    def _from(self, index: int) -> Batches:
        whole = self._stream.steps(at_least=self._world.size)
        place = next(place for number, place in enumerate(whole) if number == index)
        return self._stream.batches(place)


def linked_shards(shards: Artifact, split: str, folder: Path) -> Path:
    """A folder with a split's shards under their names, as links to the artifact's files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in shards.names(f"{split}-"):
        link = folder / name
        if name.endswith(".tar"):
            with suppress(FileExistsError):  # another rank was faster
                link.symlink_to(Path(shards.path(name)).absolute())
    return folder
