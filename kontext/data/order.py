"""In which order samples come: a function of (seed, epoch, sample id), the same on any machine.

An epoch is planned from the index alone, before a byte of a shard is read: its order, and the
global batches of at most so many tokens that ranks then slice. To resume is to plan the epoch
again and leave out the batches that were taken, so nothing about workers, buffers or ranks has to
be saved, and neither their number nor a crash can lose a sample or show one twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from kontext.errors import ArtifactError, RecipeError

Ints = NDArray[np.int64]
Keys = NDArray[np.uint64]
Name = TypeVar("Name", str, tuple[int, ...])


@dataclass(frozen=True)
class Samples:
    """What an order needs to know of N samples."""

    ids: Sequence[str]
    shards: Sequence[str]  # names of the shards, each once
    shard: Ints  # [N] into `shards`
    categories: Sequence[str]
    category: Ints  # [N] into `categories`
    buckets: Sequence[tuple[int, ...]]  # token counts that batches may not mix
    bucket: Ints  # [N] into `buckets`
    keys: Keys  # [N] 64 bits of each id

    def __len__(self) -> int:
        return len(self.ids)


def samples(
    ids: Sequence[str],
    shards: Sequence[str],
    categories: Sequence[str],
    buckets: Sequence[tuple[int, ...]],
) -> Samples:
    """Samples from one value per sample of each kind.

    Args:
        buckets: tokens of each part of a sample, such as (text, target, context); their sum is
            what a sample takes of the budget, and only equal ones share a batch.

    Raises:
        ArtifactError: two samples have one id.
    """
    if len(set(ids)) != len(ids):
        raise ArtifactError(f"{len(ids) - len(set(ids))} sample ids come more than once")
    shard_names, shard = _coded(shards)
    category_names, category = _coded(categories)
    bucket_names, bucket = _coded(buckets)
    keys = np.array([key64(name) for name in ids], np.uint64)
    return Samples(ids, shard_names, shard, category_names, category, bucket_names, bucket, keys)


def key64(name: str) -> int:
    """64 bits of a name, the same everywhere."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def epoch_order(
    of: Samples,
    seed: int,
    epoch: int,
    weights: Mapping[str, float] | None = None,
    window: int = 0,
) -> Ints:
    """Rows of `of` in the order in which epoch number `epoch` shows them.

    Args:
        weights: share of each category, in any unit; without them, every sample comes exactly
            once. With them an epoch is as long, categories are interleaved evenly, and inside a
            category no sample comes again before all others have come, across epochs too.
            Categories not named are left out.
        window: shards whose samples are mixed with each other; 0: all. Shards themselves come in
            an order of their own, so a window is what has to be at hand at one time.

    Raises:
        RecipeError: a weight is negative, or of a category without samples, or all are zero.
    """
    if weights is None:
        return _shuffled(of, np.arange(len(of), dtype=np.int64), seed, epoch, window)
    counts = _apportioned(of, weights)
    rows, places = [], []
    for number, count in counts.items():
        members = np.flatnonzero(of.category == number).astype(np.int64)
        first, last = epoch * count, (epoch + 1) * count
        drawn = [
            _shuffled(of, members, seed, turn, window)
            for turn in range(first // len(members), -(-last // len(members)))
        ]
        skip = first % len(members)
        rows.append(np.concatenate([*drawn, members[:0]])[skip : skip + count])
        places.append((np.arange(count) + 0.5) / max(count, 1))
    merged = np.argsort(np.concatenate(places), kind="stable")
    return np.concatenate(rows)[merged]


def epoch_batches(of: Samples, order: Ints, budget: int) -> list[Ints]:
    """Global batches: every row of `order` once, one bucket per batch, at most `budget` tokens.

    A batch comes when its last sample does; what is left of a bucket at the end comes as a
    smaller batch.

    Raises:
        RecipeError: one sample alone is over the budget.
    """
    found: list[tuple[int, int, Ints]] = []
    for number, parts in enumerate(of.buckets):
        places = np.flatnonzero(of.bucket[order] == number)
        if not len(places):
            continue
        size = budget // max(1, sum(parts))
        if size < 1:
            raise RecipeError(
                f"a sample of {'+'.join(map(str, parts))} tokens is over the budget of {budget}"
            )
        for start in range(0, len(places), size):
            taken = places[start : start + size]
            when = int(taken[-1]) if len(taken) == size else len(order)
            found.append((when, number, order[taken]))
    return [rows for _, _, rows in sorted(found, key=lambda item: item[:2])]


def _shuffled(of: Samples, rows: Ints, seed: int, turn: int, window: int) -> Ints:
    salt = key64(f"{seed}/{turn}")
    ties = np.lexsort((of.keys[rows], _mixed(of.keys[rows], salt)))
    rows = rows[ties]
    if not window:
        return rows
    names = np.array([key64(name) for name in of.shards], np.uint64)
    place = np.empty(len(names), np.int64)
    place[np.argsort(_mixed(names, salt), kind="stable")] = np.arange(len(names))
    windows = place[of.shard[rows]] // window
    return rows[np.argsort(windows, kind="stable")]


def _mixed(keys: Keys, salt: int) -> Keys:
    """splitmix64's finaliser of keys xor salt (Steele, Lea and Flood 2014)."""
    z = keys ^ np.uint64(salt)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Keys = z ^ (z >> np.uint64(31))
    return mixed


def _apportioned(of: Samples, weights: Mapping[str, float]) -> dict[int, int]:
    """Category -> samples per epoch, by largest remainders; their sum is the number of samples."""
    there = set(np.unique(of.category).tolist())
    known = {name: number for number, name in enumerate(of.categories) if number in there}
    for name, weight in weights.items():
        if weight < 0:
            raise RecipeError(f"the weight of '{name}' is negative")
        if weight and name not in known:
            raise RecipeError(f"'{name}' has a weight but no samples (there: {', '.join(known)})")
    total = sum(weights.values())
    if total <= 0:
        raise RecipeError("all mixing weights are zero")
    exact = {known[n]: w / total * len(of) for n, w in weights.items() if w}
    counts = {number: int(share) for number, share in exact.items()}
    short = len(of) - sum(counts.values())
    for number in sorted(exact, key=lambda n: (counts[n] - exact[n], n))[:short]:
        counts[number] += 1
    return dict(sorted(counts.items()))


def _coded(values: Sequence[Name]) -> tuple[list[Name], Ints]:
    names = sorted(set(values))
    number = {name: i for i, name in enumerate(names)}
    return names, np.array([number[value] for value in values], np.int64)
