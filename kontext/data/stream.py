"""The streaming loader: global batches of pairs from shards on any store, exactly resumable.

Shards on this disk are mapped; of others single samples are fetched by byte range, or, with a
cache folder, each shard once. Threads read and decode ahead of the training step. An image that
many pairs share is decoded once while it stays in the decode cache.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from kontext.data.order import Ints, epoch_batches, epoch_order, samples
from kontext.data.pixels import Pixels, decode_png, pixel_id
from kontext.data.shard_index import ShardIndex, load_index
from kontext.data.shards import mapped, tar_members
from kontext.errors import ArtifactError, GateError, NumericsError
from kontext.parallel.world import World
from kontext.store.objects import ObjectStore


@dataclass(frozen=True)
class Sample:
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
    samples: tuple[Sample, ...]  # may be empty where ranks outnumber the samples
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
        weights, window: see `kontext.data.order.epoch_order`.
        contexts: whether contexts are read, and count; without them only targets come.
    """

    budget: int
    text: int = 0
    seed: int = 0
    weights: Mapping[str, float] | None = None
    window: int = 0
    contexts: bool = True


@dataclass(frozen=True)
class _Coming:
    """A batch under way: piece k has every so-many-th of its samples, from the k-th on."""

    batch: StreamBatch  # without its samples
    pieces: list[Future[list[Sample]]]

    def result(self) -> StreamBatch:
        read = [piece.result() for piece in self.pieces]
        found = [sample for turn in zip_longest(*read) for sample in turn if sample is not None]
        return replace(self.batch, samples=tuple(found))

    def cancel(self) -> None:
        for piece in self.pieces:
            piece.cancel()


class PairStream:
    """Batches of one rank, from any place of any epoch on.

    Args:
        store, prefix: the shards are the `.tar` objects below it.
        world: which rank this is; global batches do not depend on it.
        threads: that read and decode; `ahead` batches are under way at a time.
        cache: this stream's own folder for whole shards of a remote store, at most `cache_bytes`
            of them (a window of the plan should fit); None: samples by byte range.
        decoded_bytes: of decoded images kept for pairs that share them.

    Raises:
        ArtifactError: no shards, or two samples with one id.
        RecipeError: a sample over the budget, or mixing weights that cannot be met.
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
        cache: Path | None = None,
        cache_bytes: int = 16 << 30,
        decoded_bytes: int = 256 << 20,
    ) -> None:
        self.plan, self.world = plan, world or World()
        self.index = load_index(store, prefix)
        self.delivered: Counter[str] = Counter()  # category -> samples, read off the records
        self._samples = samples(
            self.index.pair_ids,
            self.index.shards,
            self.index.categories,
            [
                (plan.text, *(tokens if plan.contexts else tokens[:1]))
                for tokens in self.index.image_tokens
            ],
        )
        self._threads, self._ahead = threads, max(1, ahead)
        self._shards = _Shards(store, cache, cache_bytes)
        self._images = _Images(decoded_bytes)
        self.identity = _identity(self.index, plan)

    def batches(self, place: Place | None = None) -> Iterator[StreamBatch]:
        """This rank's batches from `place` on, without end.

        Raises:
            NumericsError: the place is one of a stream with another order.
            ArtifactError: a sample's bytes are not what its id says.
        """
        at = place or Place()
        if at.stream and at.stream != self.identity:
            raise NumericsError("the place to resume from is in a stream with other data or order")
        with ThreadPoolExecutor(self._threads, "stream") as pool:
            running: deque[_Coming] = deque()
            planned = self._planned(replace(at, stream=self.identity))
            running.append(self._begin(pool, *next(planned)))  # the first one undisturbed
            try:
                while True:
                    batch = running.popleft().result()
                    while len(running) < self._ahead:
                        running.append(self._begin(pool, *next(planned)))
                    self.delivered.update(s.record["relation_class"] for s in batch.samples)
                    yield batch
            finally:
                for coming in running:
                    coming.cancel()

    def epoch(self, number: int) -> list[Ints]:
        """Global batches of one epoch as rows of `index`."""
        p = self.plan
        order = epoch_order(self._samples, p.seed, number, p.weights, p.window)
        return epoch_batches(self._samples, order, p.budget)

    def steps(self, at_least: int = 1) -> Iterator[Place]:
        """Where the 0th, 1st, … batch of at least so many samples lies, without end."""
        for rows, after in self._planned(Place(stream=self.identity)):
            if len(rows) >= at_least:
                yield replace(after, batch=after.batch - 1)

    def shares(self) -> dict[str, tuple[float, float]]:
        """Category -> (share wanted, share measured over all ranks), of what has been delivered."""
        names = sorted({*self._samples.categories})
        counts = self.world.sum({name: float(self.delivered[name]) for name in names})
        seen = max(1.0, sum(counts.values()))
        if self.plan.weights is None:
            there = Counter(self.index.categories)
            wanted = {name: there[name] / len(self.index) for name in names}
        else:
            total = sum(self.plan.weights.values())
            wanted = {name: self.plan.weights.get(name, 0.0) / total for name in names}
        return {name: (wanted[name], counts[name] / seen) for name in names}

    def check_mix(self, tolerance: float = 0.02) -> None:
        """Stop where the weights are not in force. A collective: every rank calls it.

        Raises:
            GateError: a measured share is more than `tolerance` from the one wanted.
        """
        shares = self.shares()
        off = {n: s for n, s in shares.items() if abs(s[0] - s[1]) > tolerance}
        if off:
            told = ", ".join(f"{n} {got:.1%} for {want:.1%}" for n, (want, got) in off.items())
            raise GateError(f"the mixing weights are not in force: {told}")

    def _planned(self, at: Place) -> Iterator[tuple[Ints, Place]]:
        epoch, first = at.epoch, at.batch
        while True:
            batches = self.epoch(epoch)
            for number in range(first, len(batches)):
                yield batches[number], replace(at, epoch=epoch, batch=number + 1)
            epoch, first = epoch + 1, 0

    def _begin(self, pool: Executor, rows: Ints, place: Place) -> _Coming:
        """Start on this rank's part of a global batch, in as many pieces as there are threads."""
        mine = self.world.rows(len(rows))
        pieces = [mine[start :: self._threads] for start in range(self._threads)]
        own = [[int(rows[row]) for row in piece] for piece in pieces if piece]
        parts = self._samples.buckets[self._samples.bucket[rows[0]]]
        empty = StreamBatch(place, (), mine, len(rows), sum(parts) * len(rows))
        return _Coming(empty, [pool.submit(self._read, piece) for piece in own])

    def _read(self, rows: list[int]) -> list[Sample]:
        return [self._sample(row) for row in rows]

    def _sample(self, row: int) -> Sample:
        index = self.index
        data = self._shards.read(index.shards[row], int(index.offset[row]), int(index.length[row]))
        members = {name.partition(".")[2]: body for name, body in tar_members(data)}
        record = json.loads(bytes(members["json"]))
        if record["pair_id"] != index.pair_ids[row]:
            raise ArtifactError(f"shard '{index.shards[row]}' is not the one that was indexed")
        return Sample(
            key=record["pair_id"][:32],
            contexts=tuple(
                self._images.decoded(name, members[f"ctx{i}.png"])
                for i, name in enumerate(record["context_ids"] if self.plan.contexts else ())
            ),
            target=self._images.decoded(record["target_id"], members["tgt.png"]),
            record=record,
        )


def _identity(index: ShardIndex, plan: StreamPlan) -> str:
    """Changes with whatever changes which sample comes when; not with ranks or threads."""
    told = hashlib.sha256("\n".join(index.pair_ids).encode())
    told.update(repr(index.image_tokens).encode())
    if plan.window:
        told.update("\n".join(index.shards).encode())
    weights = None if plan.weights is None else sorted(plan.weights.items())
    told.update(repr((plan.budget, plan.text, plan.seed, weights, plan.window)).encode())
    if not plan.contexts:
        told.update(b"targets")
    return told.hexdigest()[:16]


class _Shards:
    """Byte ranges of shards: mapped where they are on this disk, else fetched."""

    def __init__(self, store: ObjectStore, cache: Path | None, most: int) -> None:
        self._store, self._cache, self._most = store, cache, most
        self._maps: OrderedDict[str, memoryview] = OrderedDict()
        self._lock = Lock()

    def read(self, key: str, offset: int, length: int) -> bytes | memoryview:
        with self._lock:
            found = self._maps.get(key)
            if found is None:
                path = self._store.local_path(key)
                if path is not None:
                    found = self._maps[key] = mapped(path)
                elif self._cache is not None:
                    found = self._maps[key] = self._fetched(key)
            else:
                self._maps.move_to_end(key)
        if found is None:
            return self._store.get(key, offset, length)
        return found[offset : offset + length]

    def _fetched(self, key: str) -> memoryview:
        """A remote shard, fetched whole; older ones make room for it."""
        assert self._cache is not None
        size = self._store.size(key)
        while self._maps and size + sum(len(m) for m in self._maps.values()) > self._most:
            old, _ = self._maps.popitem(last=False)
            self._path(old).unlink(missing_ok=True)  # its mapping lives on while a sample is read
        path = self._path(key)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._store.download(key, path)
        return mapped(path)

    def _path(self, key: str) -> Path:
        assert self._cache is not None
        return self._cache / hashlib.sha256(key.encode()).hexdigest()


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
