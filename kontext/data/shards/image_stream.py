"""Pictures for the autoencoder, streamed from shards: for splits that memory does not hold."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from kontext.data.shards.image_batch import ImageBatch
from kontext.data.shards.index import load_index
from kontext.data.shards.stream import PairStream, StreamBatch, StreamPlan
from kontext.parallel.world import World
from kontext.store.artifacts.artifact_store import Artifact
from kontext.store.objects import open_store


class StreamedImages:
    """The targets of a split's pairs, each once per epoch, in an order fixed by the seed.

    Every rank reads only its own rows. Step k is always the k-th batch, so a run that was killed
    goes on with the pictures that an unbroken one would see.

    Args:
        folder: of shards; their index is made there once.
        batch: pictures of a global batch; the last of an epoch is smaller, and left out where
            there would be fewer pictures than ranks.

    Raises:
        ArtifactError: no shards in the folder, or (from `batch`) a damaged one.
    """

    def __init__(self, folder: Path, batch: int, seed: int, world: World) -> None:
        store = open_store(f"file://{folder.absolute()}")
        tokens = max(target for target, *_ in load_index(store, "").image_tokens)
        plan = StreamPlan(batch * tokens, seed=seed, contexts=False)
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
        found = next(self._coming)
        self._next = index + 1
        pixels = torch.from_numpy(np.ascontiguousarray(found.targets().transpose(0, 3, 1, 2)))
        return ImageBatch(pixels, found.rows.start, found.total)

    def _from(self, index: int) -> Generator[StreamBatch]:
        whole = self._stream.steps(at_least=self._world.size)
        place = next(place for number, place in enumerate(whole) if number == index)
        for found in self._stream.batches(place):
            if found.total >= self._world.size:
                yield found


def linked_shards(shards: Artifact, split: str, folder: Path) -> Path:
    """A folder with a split's shards under their names, as links to the artifact's files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in shards.names(f"{split}-"):
        link = folder / name
        if name.endswith(".tar"):
            with suppress(FileExistsError):  # another rank was faster
                link.symlink_to(Path(shards.path(name)).absolute())
    return folder
