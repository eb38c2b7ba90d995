"""In which order samples come: a function of (seed, epoch, sample id), the same on any machine.

An epoch is planned from the index alone, before a byte of a shard is read: its order, and the
global batches of at most so many tokens that ranks then slice. To resume is to plan the epoch
again and leave out the batches that were taken, so nothing about workers, buffers or ranks has to
be saved, and neither their number nor a crash can lose a sample or show one twice.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kontext.errors import ArtifactError, RecipeError

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Samples:
    """What an order needs to know of N samples."""

    ids: Sequence[str]
    buckets: Sequence[tuple[int, ...]]  # token counts that batches may not mix; of other shapes too
    bucket: Ints  # [N] into `buckets`
    keys: NDArray[np.uint64]  # [N] 64 bits of each id

    def __len__(self) -> int:
        return len(self.ids)


def samples(
    ids: Sequence[str],
    buckets: Sequence[tuple[int, ...]],
    shapes: Sequence[tuple[object, ...]] | None = None,
) -> Samples:
    """Samples from one id and one bucket each.

    Args:
        buckets: tokens of each part of a sample, such as (text, target, context); their sum is
            what a sample takes of the budget, and only equal ones share a batch.
        shapes: of each sample's parts, where samples of unlike ones must not share a batch either.

    Raises:
        ArtifactError: two samples have one id.
    """
    if len(set(ids)) != len(ids):
        raise ArtifactError(f"{len(ids) - len(set(ids))} sample ids come more than once")
    kinds = list(zip(buckets, shapes or [()] * len(buckets), strict=True))
    names = sorted(set(kinds))
    number = {name: i for i, name in enumerate(names)}
    bucket = np.array([number[kind] for kind in kinds], np.int64)
    return Samples(
        ids, [name for name, _ in names], bucket, np.array([key64(name) for name in ids], np.uint64)
    )


def key64(name: str) -> int:
    """64 bits of a name, the same everywhere."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def epoch_order(of: Samples, seed: int, epoch: int) -> Ints:
    """Rows of `of` [N], each once, in the order in which epoch number `epoch` shows them."""
    mixed = _mixed(of.keys, key64(f"{seed}/{epoch}"))
    return np.lexsort((of.keys, mixed)).astype(np.int64)


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


def _mixed(keys: NDArray[np.uint64], salt: int) -> NDArray[np.uint64]:
    """splitmix64's finaliser of keys xor salt (Steele, Lea and Flood 2014)."""
    z = keys ^ np.uint64(salt)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return mixed
