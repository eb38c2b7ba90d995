import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kontext.safety import pdq_index
from kontext.safety.multi_index import BITS, Bytes, Hits, MultiIndex, bands_for, build
from kontext.safety.pdq import distances
from kontext.safety.pdq_index import PdqIndex


def flipped(hashes: Bytes, rng: np.random.Generator, most: int) -> Bytes:
    """Each with 0 to `most` bits of it turned."""
    bits = np.unpackbits(hashes, axis=1)
    for row in bits:
        row[rng.choice(BITS, rng.integers(0, most + 1), replace=False)] ^= 1
    return np.packbits(bits, axis=1)


def scan(bank: Bytes, queries: Bytes, distance: int) -> list[tuple[int, int, int]]:
    apart = distances(queries[:, None], bank[None])
    found = [(q, int(apart[q, r]), r) for q, r in np.argwhere(apart <= distance).tolist()]
    return sorted(found)


def rows(hits: Hits) -> list[tuple[int, int, int]]:
    return list(zip(hits.query.tolist(), hits.distance.tolist(), hits.row.tolist(), strict=True))


@given(st.integers(0, 2**32), st.integers(1, 600), st.integers(0, 60))
@settings(max_examples=40, deadline=None)
def test_all_entries_within_the_distance_are_found(seed: int, size: int, distance: int) -> None:
    rng = np.random.default_rng(seed)
    bank = rng.integers(0, 256, (size, 32), dtype=np.uint8)
    bank[: size // 3] = flipped(bank[-1:].repeat(size // 3, 0), rng, 4)  # many in one bucket
    near = flipped(bank[rng.integers(0, size, 30)], rng, distance + 3)
    queries = np.concatenate([near, rng.integers(0, 256, (5, 32), dtype=np.uint8)])
    index = MultiIndex(build(bank, distance), distance)
    assert rows(index.search(queries)) == scan(bank, queries, distance)


@pytest.mark.parametrize("entries", [1, 10**3, 10**5, 10**6, 10**7, 10**9])
@pytest.mark.parametrize("distance", [0, 15, 31])
def test_bands_leave_no_way_to_differ_unseen(entries: int, distance: int) -> None:
    bands = bands_for(entries, distance)
    ends = [band.start + band.bits for band in bands]
    assert all(a.start >= end for a, end in zip(bands[1:], ends, strict=False)) and ends[-1] <= BITS
    # the fewest bits that hide from every band: one more than it may differ by in each
    assert sum(band.radius + 1 for band in bands) > distance
    assert all(len(band.flips) == band.buckets == len(set(band.flips)) for band in bands)


def test_the_worst_split_of_the_distance_is_found_in_every_band() -> None:
    """31 bits, spread over the bands so that only the last one that may betray them does."""
    rng = np.random.default_rng(0)
    bank = rng.integers(0, 256, (70_000, 32), dtype=np.uint8)
    index = MultiIndex(build(bank, 31), 31)
    for chosen in index.bands:
        bits = np.unpackbits(bank[1234], bitorder="little")
        left = 31
        for band in (*(b for b in index.bands if b != chosen), chosen):
            turned = min(left, band.radius + (band != chosen))
            bits[band.start + rng.choice(band.bits, turned, replace=False)] ^= 1
            left -= turned
        query = np.packbits(bits, bitorder="little")[None]
        assert distances(query[0], bank[1234]) == 31 - left
        assert rows(index.search(query)) == [(0, 31 - left, 1234)]


def test_what_lies_in_one_bucket_is_looked_at_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kontext.safety.multi_index._AT_ONCE", 300)
    bank = np.zeros((1000, 32), np.uint8)
    bank[500:, 5] = 255
    index = MultiIndex(build(bank, 31), 31)
    hits = index.search(np.zeros((3, 32), np.uint8))
    assert rows(hits) == scan(bank, np.zeros((3, 32), np.uint8), 31) and len(hits.row) == 3000


def test_short_and_long_lists_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    bank = rng.integers(0, 256, (3000, 32), dtype=np.uint8)
    bank[7] = bank[2900]
    queries = flipped(bank[rng.integers(0, 3000, 64)], rng, 40)
    queries[5] = bank[7]
    short = PdqIndex(bank)
    monkeypatch.setattr(pdq_index, "_SHORT", 100)
    long = PdqIndex(bank)
    assert long.rows is not None and short.rows is None and len(long) == len(short) == 3000
    assert rows(short.within(queries)) == rows(long.within(queries)) == scan(bank, queries, 31)
    for start in range(0, 64, 8):
        eight = queries[start : start + 8]
        assert short.nearest(eight) == long.nearest(eight)
    assert long.nearest(queries[5:6]) == (7, 0)
