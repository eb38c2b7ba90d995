"""The streaming loader: global batches of pairs from shards on any store, exactly resumable.

Shards on this disk are mapped; of others single samples are fetched by byte range, and soon the
whole shard. Threads read and decode ahead of the training step. An image that many pairs share is
decoded once while it stays in the decode cache.
"""

import hashlib
import json
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import zip_longest
from threading import Lock
from typing import Any

import numpy as np

from kontext.data.buckets import Size
from kontext.data.pixels import Pixels, decode_png, pixel_id
from kontext.data.shards.index import ShardIndex, load_index, tokens_of
from kontext.data.shards.order import Ints, epoch_batches, epoch_order, key64, samples
from kontext.data.shards.ranges import ShardRanges
from kontext.data.shards.write import tar_members
from kontext.errors import ArtifactError, NumericsError, RecipeError
from kontext.parallel.world import World
from kontext.store.objects import ObjectStore


@dataclass(frozen=True)
class StreamSample:
    """One decoded sample. `record` is the JSON member."""

    key: str
    contexts: tuple[Pixels, ...]  # uint8 [H, W, 3] each, read-only; empty for text-to-image
    target: Pixels  # uint8 [H, W, 3], read-only
    record: dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where a stream stands: the next batch. `stream` tells streams apart that differ in order."""

    epoch: int = 0
    batch: int = 0
    stream: str = ""


@dataclass(frozen=True)
class StreamBatch:
    """This rank's part of one global batch; every sample's images have the same sizes."""

    place: Place  # of the batch after this one: what a checkpoint keeps
    samples: tuple[StreamSample, ...]  # may be empty where ranks outnumber the samples
    rows: range  # of the global batch: which of its noise is ours
    total: int  # samples of the global batch
    tokens: int  # of the global batch

    def targets(self) -> Pixels:
        """uint8 [B, H, W, 3]."""
        return np.stack([sample.target for sample in self.samples])

    def contexts(self) -> Pixels:
        """uint8 [B, N, H, W, 3] of contexts of one size."""
        pictures = np.stack([picture for sample in self.samples for picture in sample.contexts])
        return pictures.reshape(len(self.samples), -1, *pictures.shape[1:])


@dataclass(frozen=True)
class StreamPlan:
    """Everything that decides which samples come when.

    Args:
        budget: tokens of a global batch, at most.
        text: text tokens of a sample.
        contexts: whether contexts are read, and count; without them only targets come.
        crop: side of the random square of each target that comes in its place, in pixels; it is
            another one in every epoch. 0: whole targets.
    """

    budget: int
    text: int = 0
    seed: int = 0
    contexts: bool = True
    crop: int = 0


@dataclass(frozen=True)
class _PendingBatch:
    """A batch under way: piece k has every so-many-th of its samples, from the k-th on."""

    batch: StreamBatch  # without its samples
    pieces: list[Future[list[StreamSample]]]

    def result(self) -> StreamBatch:
        read = [piece.result() for piece in self.pieces]
        found = [sample for turn in zip_longest(*read) for sample in turn if sample is not None]
        return replace(self.batch, samples=tuple(found))


class Batches(Iterator[StreamBatch]):
    """Batches without end, some of them under way in threads.

    Who changes the stream's files afterwards calls `close`, which waits for the threads. One that
    is forgotten does not: the garbage collector may come upon it in any thread and at any moment,
    also in a thread that is only starting, and there a wait for threads can lock up.
    """

    def __init__(
        self,
        threads: int,
        ahead: int,
        planned: Iterator[tuple[Ints, Place]],
        begin: Callable[[Executor, Ints, Place], _PendingBatch],
    ) -> None:
        self._pool = ThreadPoolExecutor(threads, "stream")  # its threads end when it is collected
        self._ahead, self._planned, self._begin = ahead, planned, begin
        self._running: deque[_PendingBatch] = deque()

    def __next__(self) -> StreamBatch:
        """The next batch. Raises RuntimeError: closed."""
        if not self._running:
            self._submit()  # the first one undisturbed
        batch = self._running.popleft().result()
        while len(self._running) < self._ahead:
            self._submit()
        return batch

    def close(self) -> None:
        """Give up what is under way, and wait for what is being read."""
        self._pool.shutdown(cancel_futures=True)
        self._running.clear()

    def _submit(self) -> None:
        self._running.append(self._begin(self._pool, *next(self._planned)))


class PairStream:
    """Batches of one rank, from any place of any epoch on.

    Args:
        store, prefix: the shards are the `.tar` objects below it.
        world: which rank this is; global batches do not depend on it.
        threads: that read and decode; `ahead` batches are under way at a time.
        decoded_bytes: of decoded images kept for pairs that share them.
        shard_bytes: of shards from another machine, kept on this disk.

    Raises:
        ArtifactError: no shards, or two samples with one id.
        RecipeError: a sample over the budget, or a target smaller than the crop.
    """

    def __init__(
        self,
        store: ObjectStore,
        prefix: str,
        plan: StreamPlan,
        world: World | None = None,
        *,
        threads: int = 2,
        ahead: int = 4,
        decoded_bytes: int = 256 << 20,
        shard_bytes: int = 32 << 30,
    ) -> None:
        self.plan, self.world = plan, world or World()
        self.index = load_index(store, prefix)
        shapes = [_shapes(sizes, plan) for sizes in self.index.image_sizes]
        tokens = [(plan.text, *map(tokens_of, sizes)) for sizes in shapes]
        self._samples = samples(self.index.pair_ids, tokens, shapes)
        self._threads, self._ahead = threads, max(1, ahead)
        self._shards = ShardRanges(store, _shard_sizes(self.index), shard_bytes)
        self._images = _Images(decoded_bytes)
        self.identity = _identity(self.index, plan)

    def batches(self, place: Place | None = None) -> "Batches":
        """This rank's batches from `place` on, without end.

        Raises:
            NumericsError: the place is one of a stream with another order.
            ArtifactError: from the iterator, a sample's bytes are not what its id says.
        """
        at = place or Place()
        if at.stream and at.stream != self.identity:
            raise NumericsError(
                "the place to resume from was recorded with other data or in another order"
            )
        planned = self._planned(replace(at, stream=self.identity))
        return Batches(self._threads, self._ahead, planned, self._begin)

    def epoch(self, number: int) -> list[Ints]:
        """Global batches of one epoch as rows of `index`."""
        order = epoch_order(self._samples, self.plan.seed, number)
        return epoch_batches(self._samples, order, self.plan.budget)

    def steps(self, at_least: int = 1) -> Iterator[Place]:
        """Where the 0th, 1st, … batch of at least so many samples lies, without end."""
        for rows, after in self._planned(Place(stream=self.identity)):
            if len(rows) >= at_least:
                yield replace(after, batch=after.batch - 1)

    def _planned(self, at: Place) -> Iterator[tuple[Ints, Place]]:
        epoch, first = at.epoch, at.batch
        while True:
            batches = self.epoch(epoch)
            for number in range(first, len(batches)):
                yield batches[number], replace(at, epoch=epoch, batch=number + 1)
            epoch, first = epoch + 1, 0

    def _begin(self, pool: Executor, rows: Ints, place: Place) -> _PendingBatch:
        """Start on this rank's part of a global batch, in as many pieces as there are threads."""
        mine = self.world.rows(len(rows))
        pieces = [mine[start :: self._threads] for start in range(self._threads)]
        own = [rows[piece].tolist() for piece in pieces if piece]
        parts = self._samples.buckets[self._samples.bucket[rows[0]]]
        empty = StreamBatch(place, (), mine, len(rows), sum(parts) * len(rows))
        submit = pool.submit
        return _PendingBatch(empty, [submit(self._read, piece, place.epoch) for piece in own])

    def _read(self, rows: list[int], epoch: int) -> list[StreamSample]:
        return [self._sample(row, epoch) for row in rows]

    def _sample(self, row: int, epoch: int) -> StreamSample:
        index = self.index
        data = self._shards.read(index.shards[row], int(index.offset[row]), int(index.length[row]))
        members = {name.partition(".")[2]: body for name, body in tar_members(data)}
        record = json.loads(bytes(members["json"]))
        if record["pair_id"] != index.pair_ids[row]:
            raise ArtifactError(f"shard '{index.shards[row]}' is not the one that was indexed")
        return StreamSample(
            key=record["pair_id"][:32],
            contexts=tuple(
                self._images.decoded(name, members[f"ctx{i}.png"])
                for i, name in enumerate(record["context_ids"] if self.plan.contexts else ())
            ),
            target=self._cropped(
                self._images.decoded(record["target_id"], members["tgt.png"]), epoch, row
            ),
            record=record,
        )

    def _cropped(self, picture: Pixels, epoch: int, row: int) -> Pixels:
        """The plan's square of a target, at a place fixed by (seed, epoch, sample id)."""
        side = self.plan.crop
        if not side:
            return picture
        place = key64(f"{self.plan.seed}/{epoch}/{self.index.pair_ids[row]}/crop")
        down, across = (length - side + 1 for length in picture.shape[:2])
        top, left = place % down, place // down % across
        return picture[top : top + side, left : left + side]


def _shard_sizes(index: ShardIndex) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for key, end in zip(index.shards, (index.offset + index.length).tolist(), strict=True):
        sizes[key] = max(end, sizes.get(key, 0))
    return sizes


def _shapes(sizes: tuple[Size, ...], plan: StreamPlan) -> tuple[Size, ...]:
    """Sizes of what comes of a sample whose target and contexts have these."""
    target, *contexts = sizes
    if plan.crop:
        if min(target) < plan.crop:
            raise RecipeError(
                f"a crop of {plan.crop} pixels does not fit a picture of {target[0]} x {target[1]}"
            )
        target = (plan.crop, plan.crop)
    return (target, *contexts) if plan.contexts else (target,)


def _identity(index: ShardIndex, plan: StreamPlan) -> str:
    """Changes with whatever changes which sample comes when; not with ranks or threads."""
    hasher = hashlib.sha256("\n".join(index.pair_ids).encode())
    hasher.update(repr((index.image_sizes, plan)).encode())
    return hasher.hexdigest()[:16]


class _Images:
    """Decoded images by pixel id, the least recently used dropped; each checked against its id."""

    def __init__(self, most: int) -> None:
        self._most, self._held = most, 0
        self._kept: OrderedDict[str, Pixels] = OrderedDict()
        self._lock = Lock()

    def decoded(self, name: str, png: memoryview) -> Pixels:
        with self._lock:
            found = self._kept.get(name)
            if found is not None:
                self._kept.move_to_end(name)
                return found
        rgb = decode_png(png)
        if pixel_id(rgb) != name:
            raise ArtifactError(f"image {name[:12]} is damaged: its pixels do not match its id")
        rgb.setflags(write=False)
        with self._lock:
            if name not in self._kept and rgb.nbytes <= self._most:
                self._kept[name] = rgb
                self._held += rgb.nbytes
                while self._held > self._most:
                    self._held -= self._kept.popitem(last=False)[1].nbytes
        return rgb
