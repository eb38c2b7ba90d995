"""Exact search of 256-bit hashes within a distance, by multi-index hashing (Norouzi et al. 2012).

The bits are cut into M bands. Of hashes that differ in at most r = aM + b bits, 0 <= b < M, one of
the first b + 1 bands differs in at most a bits, or one of the others in at most a - 1: otherwise
they would differ in (b + 1)(a + 1) + (M - b - 1)a = r + 1. So every band has a table from its bits
to the entries that have them; the buckets that are that near to a query's bits are looked into, and
whole hashes are compared there only. M is chosen for as few looks as the number of entries allows:
16 bands of 16 bits, each within one bit, for a hundred thousand; 11 of 23, mostly within two, for
ten million.

Everything is done for many queries at a time, by numpy, on arrays that may be mapped from a file.
"""

from collections.abc import Iterator, Mapping
from itertools import combinations
from math import comb
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]

BITS = 256
_WORD = 64
_SPARE_BITS = 2  # a band has no more beyond those that tell its entries apart: its table doubles
_AT_ONCE = 1 << 19  # buckets or entries looked at in one go: they stay in the cache
_NONE = np.zeros(0, np.int64)


class Hits(NamedTuple):
    """K entries near queries, by query, distance and row."""

    query: Ints  # [K]
    row: Ints  # [K]
    distance: Ints  # [K] bits


class Band(NamedTuple):
    """Bits [start, start + bits) of a hash, and how many of them may differ."""

    start: int
    bits: int
    radius: int

    @property
    def flips(self) -> Ints:
        """What a query's bits are XORed with: every way in which so many differ."""
        some = (c for n in range(self.radius + 1) for c in combinations(range(self.bits), n))
        return np.array([sum(1 << bit for bit in chosen) for chosen in some], np.int64)

    @property
    def buckets(self) -> int:
        """How many buckets a query looks into."""
        return sum(comb(self.bits, n) for n in range(self.radius + 1))

    def looks(self, entries: int) -> float:
        """Buckets and entries that a query looks at; an entry costs half as much again."""
        return self.buckets * (1 + 1.5 * entries / (1 << self.bits))

    def of(self, words: NDArray[np.uint64]) -> NDArray[np.uint32]:
        """The band's bits [N] of hashes [N, 4]."""
        word, shift = divmod(self.start, _WORD)
        found = words[:, word] >> np.uint64(shift)
        if shift + self.bits > _WORD:
            found = found | (words[:, word + 1] << np.uint64(_WORD - shift))
        return (found & np.uint64((1 << self.bits) - 1)).astype(np.uint32)


def bands_for(entries: int, distance: int) -> tuple[Band, ...]:
    """The bands with which a search among so many entries looks at the least."""
    most = entries.bit_length() + _SPARE_BITS
    choices = [_bands(count, distance, most) for count in range(1, distance + 2)]
    return min(choices, key=lambda bands: sum(b.looks(entries) for b in bands))


def _bands(count: int, distance: int, most: int) -> tuple[Band, ...]:
    least, more = divmod(distance, count)
    edges = [BITS * number // count for number in range(count + 1)]
    return tuple(
        Band(edges[n], min(edges[n + 1] - edges[n], most), least - (n > more))
        for n in range(count)
        if n <= more or least  # a band that may differ in less than no bit is not looked at
    )


class MultiIndex:
    """Every entry within `distance` bits of a query. `arrays` are what `build` gives."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]], distance: int) -> None:
        self._rows: Bytes = arrays["rows"]
        self._words = _words(self._rows)
        self._halves = _halves(self._words)
        self.bands = bands_for(len(self._rows), distance)
        self._flips = [band.flips for band in self.bands]
        self._starts, self._ids = arrays["starts"], arrays["ids"]
        self._distance = distance

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> Bytes:
        """The hashes [N, 32]."""
        return self._rows

    def search(self, queries: Bytes) -> Hits:
        """All entries within the distance of each query [Q, 32]."""
        found = [np.zeros((0, 3), np.int64)]
        words = _words(queries)
        place = 0
        for number, band in enumerate(self.bands):
            keys, flips = band.of(words).astype(np.int64), self._flips[number]
            step = max(1, _AT_ONCE // len(flips))
            starts = self._starts[place : (place := place + (1 << band.bits) + 1)]
            for first in range(0, len(keys), step):
                buckets = (keys[first : first + step, None] ^ flips).ravel()
                for owner, ids in _entries(starts, self._ids[number], buckets):
                    query = first + owner // len(flips)
                    found.append(self._near(words, query, ids))
        # an entry may share several bands with a query
        rows = np.unique(np.concatenate(found), axis=0)
        return Hits(rows[:, 0], rows[:, 2], rows[:, 1])

    def _near(self, words: NDArray[np.uint64], query: Ints, ids: Ints) -> Ints:
        """(query, distance, row) [K, 3] of those of the pairs that are near."""
        # half of a hash tells nearly all that are far away
        half = self._halves.take(2 * ids, mode="clip").view(np.uint64)
        half ^= _halves(words).take(2 * query, mode="clip").view(np.uint64)
        bits = np.bitwise_count(half)
        maybe = np.flatnonzero(bits[::2] + bits[1::2] <= self._distance)
        query, ids = query[maybe], ids[maybe]
        apart = np.bitwise_count(self._words[ids] ^ words[query]).sum(1, dtype=np.int64)
        near = apart <= self._distance
        return np.stack([query[near], apart[near], ids[near]], axis=1)


def build(hashes: Bytes, distance: int) -> dict[str, NDArray[Any]]:
    """The arrays of an index of hashes [N, 32], N < 2^32.

    `rows` are the hashes; `ids` [M, N] the rows by their bits in each of M bands; `starts`, one
    band after the other, where in `ids` the rows with each value of the bits begin.
    """
    rows = np.ascontiguousarray(hashes)
    words, bands = _words(rows), bands_for(len(rows), distance)
    ids = np.empty((len(bands), len(rows)), np.uint32)
    starts = np.empty(sum((1 << band.bits) + 1 for band in bands), np.uint32)
    place = 0
    for number, band in enumerate(bands):
        keys = band.of(words)
        ids[number] = np.argsort(keys)
        counts = np.bincount(keys, minlength=1 << band.bits)
        own = starts[place : (place := place + len(counts) + 1)]
        own[0] = 0
        np.cumsum(counts, out=own[1:])
    return {"rows": rows, "ids": ids, "starts": starts}


def _entries(
    starts: NDArray[np.uint32], ids: NDArray[np.uint32], buckets: Ints
) -> Iterator[tuple[Ints, Ints]]:
    """What is in the buckets [B]: which of them, and the rows; a bounded number at a time."""
    first = starts.take(buckets, mode="clip").astype(np.int64)
    count = starts.take(buckets + 1, mode="clip").astype(np.int64) - first
    full = np.flatnonzero(count)
    first, count = first[full], count[full]
    ends = np.cumsum(count)
    begin = 0
    while begin < len(full):
        taken = ends[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, taken + _AT_ONCE, side="right")))
        mine = slice(begin, end)
        # a bucket's rows follow each other in `ids`
        shift = first[mine] - (ends[mine] - count[mine] - taken)
        where = np.repeat(shift, count[mine])
        where += np.arange(len(where))
        yield np.repeat(full[mine], count[mine]), ids.take(where, mode="clip").astype(np.int64)
        begin = end


def _words(hashes: Bytes) -> NDArray[np.uint64]:
    return np.ascontiguousarray(hashes).view(np.uint64).reshape(-1, BITS // _WORD)


def _halves(words: NDArray[np.uint64]) -> NDArray[np.complex128]:
    """Hashes [N, 4] as halves [2N], each one value of 16 bytes, which numpy takes at once."""
    return words.view(np.complex128).ravel()
