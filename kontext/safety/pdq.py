"""PDQ hashes as bytes, and fast exact search within Hamming distance 31 in large lists."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

MAX_DISTANCE = 31  # ThreatExchange's recommended match threshold of 256 bits
MIN_QUALITY = 50  # below this a PDQ hash says nothing
# PDQ samples its 64 x 64 points off centre by half a source pixel, so the orientations that
# pdqhash.compute_dihedral derives in the DCT domain miss turned copies (measured recall 0.13 for a
# half turn at 256 px, 0.93 at 1024 px). Turning the pixels is exact; so is its transposition, which
# halves the work for large images.
_HALVE_ABOVE = 512  # pixels; below, unpacking eight hashes per call costs more than it saves
_TRANSPOSED = 6
_BANDS = 16  # of 16 bits: within distance 31 some band differs in at most one bit
_INDEX_FROM = 4096  # a plain scan is faster below
_PROBES = np.array([0, *(1 << bit for bit in range(16))], dtype=np.uint16)


class Match(NamedTuple):
    """Nearest entry within MAX_DISTANCE."""

    row: int
    distance: int


def pdq_dihedral(rgb: Bytes) -> tuple[Bytes, int]:
    """PDQ of an image in all 8 orientations.

    Args:
        rgb: uint8 [H, W, 3], as decoded, before any resize.

    Returns:
        (hashes uint8 [8, 32], the image as it is first; quality 0-100).
    """
    import pdqhash  # here: distances alone are asked for where it is not installed

    if max(rgb.shape[:2]) > _HALVE_ABOVE:
        results = []
        for view in (rgb, rgb[:, ::-1], rgb[::-1], rgb[::-1, ::-1]):
            vectors, quality = pdqhash.compute_dihedral(np.ascontiguousarray(view))
            results += [(vectors[0], quality), (vectors[_TRANSPOSED], quality)]
    else:
        results = [
            pdqhash.compute(np.ascontiguousarray(np.rot90(side, turns)))
            for side in (rgb, rgb[:, ::-1])
            for turns in range(4)
        ]
    hashes = np.packbits(np.stack([vector for vector, _ in results]).astype(bool), axis=1)
    return hashes, int(results[0][1])


def distances(a: Bytes, b: Bytes) -> NDArray[np.int64]:
    """Hamming distances of hashes [..., 32] and [..., 32], broadcast."""
    counts: NDArray[np.int64] = np.bitwise_count(a ^ b).sum(-1, dtype=np.int64)
    return counts


class PdqIndex:
    """Exact nearest-within-31 search: a scan for short lists, multi-index hashing for long ones.

    Multi-index hashing (Norouzi et al. 2012): split into 16 bands of 16 bits; a hash within 31
    bits agrees with the query in some band up to one bit, so 16 x 17 bucket look-ups find it.
    """

    def __init__(self, hashes: Bytes) -> None:
        """`hashes` is uint8 [N, 32]."""
        assert hashes.ndim == 2 and hashes.shape[1] == 32
        self._hashes = np.ascontiguousarray(hashes)
        self._words = self._hashes.view(np.uint64)
        self._order: list[NDArray[np.int64]] = []
        self._starts: list[NDArray[np.int64]] = []
        if len(hashes) >= _INDEX_FROM:
            bands = self._hashes.view(np.uint16)
            for band in range(_BANDS):
                order = np.argsort(bands[:, band], kind="stable")
                edges = np.arange(65537)
                self._order.append(order)
                self._starts.append(np.searchsorted(bands[order, band], edges))

    def __len__(self) -> int:
        return len(self._hashes)

    def nearest(self, queries: Bytes) -> Match | None:
        """The entry nearest to any of `queries` [Q, 32], if one is within MAX_DISTANCE."""
        best: Match | None = None
        for query in np.ascontiguousarray(queries):
            rows = self._candidates(query)
            if rows is not None and not len(rows):
                continue
            words = self._words if rows is None else self._words[rows]
            if not len(words):
                continue
            bits = np.bitwise_count(words ^ query.view(np.uint64)).sum(1, dtype=np.int64)
            at = int(bits.argmin())
            if bits[at] <= MAX_DISTANCE and (best is None or bits[at] < best.distance):
                best = Match(at if rows is None else int(rows[at]), int(bits[at]))
        return best

    def _candidates(self, query: Bytes) -> NDArray[np.int64] | None:
        """Rows worth comparing, or None for all of them."""
        if not self._order:
            return None
        parts = []
        for band, value in enumerate(query.view(np.uint16)):
            starts, order = self._starts[band], self._order[band]
            for probe in value ^ _PROBES:
                low, high = starts[probe], starts[int(probe) + 1]
                if high > low:
                    parts.append(order[low:high])
        return np.unique(np.concatenate(parts)) if parts else np.empty(0, np.int64)
