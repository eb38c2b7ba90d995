"""PDQ hashes as bytes, their distances, and all near pairs of many.

The faiss indexes that are used are exact: `IndexBinaryFlat` compares with every entry, and
`IndexBinaryMultiHash` (multi-index hashing, Norouzi et al. 2012) looks only at entries that share
one of 16 bands of 16 bits, which hashes within 15 bits of each other always do.
`kontext.safety.pdq_index` searches lists. `python -m benchmarks.hashes` measures both beside the
same search in numpy.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

MAX_DISTANCE = 31  # ThreatExchange's recommended match threshold of 256 bits
MIN_QUALITY = 50  # below this a PDQ hash says nothing
# PDQ reads its 64 x 64 points off centre by up to half a pixel, so that the orientations which
# pdqhash.compute_dihedral derives in the DCT domain miss turned copies: by up to 26 bits of a side
# of 512. With 5 x 64 pixels a side its box filter is 3 wide and its points lie on pixels' centres:
# the derived orientations are exact, and one computation gives all eight.
_SIDE = 320
_BITS = 256
_BANDS = 16


def pdq_dihedral(rgb: Bytes) -> tuple[Bytes, int]:
    """PDQ of an image in all 8 orientations.

    A side above 320 pixels is first reduced to 320 by area; a shorter one stays, for nothing is
    enlarged. Beside hashes of the full image (`python -m benchmarks.pdq`): 1.9 bits apart on
    average and 4 at most, on synthetic photographs of 12 megapixels; 7.4 and 18 on twelve photos,
    drawings and diagrams, mostly small.

    Args:
        rgb: uint8 [H, W, 3], as decoded, before any resize.

    Returns:
        (hashes uint8 [8, 32], the image as it is first; quality 0-100).
    """
    import pdqhash  # here: distances alone are asked for where it is not installed

    small = _reduce(rgb)
    if small.shape[:2] == (_SIDE, _SIDE):
        vectors, quality = pdqhash.compute_dihedral(small)
    else:  # turning the pixels is exact for every size
        results = [
            pdqhash.compute(np.ascontiguousarray(np.rot90(side, turns)))
            for side in (small, small[:, ::-1])
            for turns in range(4)
        ]
        vectors, quality = [vector for vector, _ in results], results[0][1]
    return np.packbits(np.stack(vectors).astype(bool), axis=1), int(quality)


def enlarged(rgb: Bytes) -> Bytes | None:
    """A picture with a side below 320 pixels at 320 x 320; None for any other.

    PDQ reads few pixels of a small one, and off centre. A list's hash is of the whole picture: of
    photographs at a quarter to half of their size it is 14 to 20 bits from that of the small
    picture as it is, and 2 to 4 from that of the enlarged one (`kontext safety test`).
    """
    import cv2

    if min(rgb.shape[:2]) >= _SIDE:
        return None
    size = (_SIDE, _SIDE)
    large = cv2.resize(np.ascontiguousarray(rgb), size, interpolation=cv2.INTER_LINEAR)
    return np.asarray(large, np.uint8)


def _reduce(rgb: Bytes) -> Bytes:
    import cv2

    height, width = rgb.shape[:2]
    size = min(width, _SIDE), min(height, _SIDE)
    if size == (width, height):
        return rgb
    small: Bytes = np.ascontiguousarray(rgb)
    # by halves first, which OpenCV does ten times as fast as by other shares
    while min(small.shape[:2]) >= 2 * _SIDE:
        half = small.shape[1] // 2, small.shape[0] // 2
        even = np.ascontiguousarray(small[: 2 * half[1], : 2 * half[0]])
        small = np.asarray(cv2.resize(even, half, interpolation=cv2.INTER_AREA), np.uint8)
    return np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_AREA), np.uint8)


def distances(a: Bytes, b: Bytes) -> NDArray[np.int64]:
    """Hamming distances of hashes [..., 32] and [..., 32], broadcast."""
    counts: NDArray[np.int64] = np.bitwise_count(a ^ b).sum(-1, dtype=np.int64)
    return counts


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
    found = np.stack([_owners(limits), second.astype(np.int64)], axis=1)
    found = found[found[:, 0] < found[:, 1]]  # of millions, few but each with itself
    return sorted(map(tuple, found.tolist()))


def _owners(limits: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Which query each result of faiss's `range_search` belongs to."""
    ends = limits.astype(np.int64)
    return np.repeat(np.arange(len(ends) - 1), ends[1:] - ends[:-1])


_FRAMES, _SMALLEST = 2, 16  # borders in borders; pixels a side of the smallest that is looked for
_BLURRED = (1, 3)  # pixels along a border that JPEG may have mixed with it
_SPREAD = 40  # levels between a border's pixels at most
_STRAY = 12  # levels that they are from their mean on average


def without_borders(rgb: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """What is inside of a picture's border, and of a border inside of that.

    A border of 2 % is enough for PDQ not to know a picture again, and somebody may add one for
    that. A border is lines along the sides that are plain, and of the colour of the outermost one;
    each side may have its own, as in a letterbox. JPEG leaves stray pixels where it meets the
    picture, so plain is meant twice, of all pixels and on average, and what is found is looked at
    without some more pixels along its sides too. `python -m tests.safety.borders`: of 84 pictures
    behind borders, as PNG to JPEG at quality 50, two small ones are still missed.

    Args:
        rgb: uint8 [H, W, 3].
    """
    seen = {rgb.shape}
    for plain in (_all_near, _near_on_average):
        outer = rgb
        for _ in range(_FRAMES):
            inner = _inside(outer, plain)
            if inner is None:
                break
            if inner.shape not in seen:
                seen.add(inner.shape)
                yield inner
                yield from (inner[n:-n, n:-n] for n in _BLURRED if min(inner.shape[:2]) >= 32 * n)
            outer = inner


def _all_near(lines: NDArray[np.uint8]) -> NDArray[np.bool_]:
    near: NDArray[np.bool_] = (lines.max(axis=1) - lines.min(axis=1)).max(axis=1) <= _SPREAD
    return near


def _near_on_average(lines: NDArray[np.uint8]) -> NDArray[np.bool_]:
    strays = np.abs(lines - lines.mean(axis=1, keepdims=True))
    near: NDArray[np.bool_] = strays.mean(axis=1).max(axis=1) <= _STRAY
    return near


_Plain = Callable[[NDArray[np.uint8]], NDArray[np.bool_]]


def _inside(rgb: NDArray[np.uint8], plain: _Plain) -> NDArray[np.uint8] | None:
    """The picture without one border; None where it has none, or nothing is inside of it."""
    across, down = max(1, rgb.shape[1] // 512), max(1, rgb.shape[0] // 512)
    top, bottom = _ends(rgb[:, ::across], plain)
    left, right = _ends(rgb[top:bottom:down].swapaxes(0, 1), plain)
    inner = rgb[top:bottom, left:right]
    small = min(inner.shape[:2]) < _SMALLEST
    return None if small or inner.shape == rgb.shape else inner


def _ends(lines: NDArray[np.uint8], plain: _Plain) -> tuple[int, int]:
    """First line [N, M, 3] that is no border, and the one after the last; (0, 0) if all are."""
    if not lines.size:
        return 0, 0
    ends = _border(lines, plain), _border(lines[::-1], plain)
    return (ends[0], len(lines) - ends[1]) if sum(ends) < len(lines) else (0, 0)


def _border(lines: NDArray[np.uint8], plain: _Plain) -> int:
    """How many of the first lines are a border. Looks no further: most pictures have none."""
    first, count, more = lines[0].mean(axis=0), 0, 1
    while count < len(lines):
        part = lines[count : count + more]
        alike = np.abs(part.mean(axis=1) - first).max(axis=1) <= _SPREAD
        border = plain(part) & alike
        if not border.all():
            return count + int(np.argmin(border))
        count, more = count + len(part), 2 * more
    return count
