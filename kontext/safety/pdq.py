"""PDQ hashes as bytes, and exact search by Hamming distance with faiss.

Both indexes that are used are exact: `IndexBinaryFlat` compares with every entry, and
`IndexBinaryMultiHash` (multi-index hashing, Norouzi et al. 2012) looks only at entries that share
one of 16 bands of 16 bits, which hashes within 15 bits of each other always do.
`python -m benchmarks.hashes` measures both beside the same search in numpy.
"""

from typing import Any, NamedTuple

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
_BITS = 256
_BANDS = 16


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
    """Exact search for the nearest entry within MAX_DISTANCE."""

    def __init__(self, hashes: Bytes) -> None:
        """`hashes` is uint8 [N, 32]."""
        import faiss

        assert hashes.ndim == 2 and hashes.shape[1] == 32
        self._index = faiss.IndexBinaryFlat(_BITS)
        self._index.add(np.ascontiguousarray(hashes))

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def nearest(self, queries: Bytes) -> Match | None:
        """The entry nearest to any of `queries` [Q, 32], if one is within MAX_DISTANCE.

        Of several that are equally near, the first one of the first query.
        """
        limits, found, rows = self._index.range_search(
            np.ascontiguousarray(queries), MAX_DISTANCE + 1
        )
        if not len(rows):
            return None
        query = _owners(limits)
        best = np.lexsort((rows, query, found))[0]
        return Match(int(rows[best]), int(found[best]))


def pairs_within(hashes: Bytes, distance: int) -> list[tuple[int, int]]:
    """All pairs (i, j), i < j, of rows of `hashes` uint8 [N, 32] at most `distance` bits apart.

    Sorted. Up to 15 bits a hundred thousand hashes take a second or two; above, every hash is
    compared with every other.
    """
    import faiss

    index: faiss.IndexBinary
    if distance < _BANDS:
        index = faiss.IndexBinaryMultiHash(_BITS, _BANDS, _BITS // _BANDS)
    else:
        index = faiss.IndexBinaryFlat(_BITS)
    hashes = np.ascontiguousarray(hashes)
    index.add(hashes)
    limits, _, second = index.range_search(hashes, distance + 1)
    pairs = zip(_owners(limits).tolist(), second.tolist(), strict=True)
    return sorted((i, j) for i, j in pairs if i < j)


def _owners(limits: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Which query each result of faiss's `range_search` belongs to."""
    ends = limits.astype(np.int64)
    return np.repeat(np.arange(len(ends) - 1), ends[1:] - ends[:-1])
