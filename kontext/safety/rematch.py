"""Matching hashes that were kept with today's lists: no picture is read again.

Of a picture that is stored only the hash as it is was kept. The gate looks up all eight
orientations; here those of the list's entries are derived from their bits. Turning a picture turns
the signs of half of PDQ's 16 x 16 coefficients, so it turns their bits, but for the few near the
median: a turned copy is 9 bits further away than it is, on average (16 at most, of photographs).
What the original's bytes are known by is their SHA-256; MD5 and SHA-1 were not kept.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kontext.errors import CanaryError
from kontext.safety.hashes import OPERATOR, HashGate, HashList
from kontext.safety.ids import Reason
from kontext.safety.multi_index import Bytes
from kontext.safety.pdq import pdq_dihedral
from kontext.safety.pdq_index import PdqIndex
from kontext.safety.proof import listed_canary

CHANGES_RESULTS = False  # looks at what is there

_SIDE = 16  # coefficients a side
_AT_ONCE = 1 << 13  # queries
_FEW_BITS = np.array([0x11] * 8 + [0] * 24, np.uint8)  # 16 of 256
NO_DIGEST = "-"  # of no file


class Rematch(NamedTuple):
    """A stored picture that a list of today names."""

    row: int
    provider: str  # the list, `provider@version`


def turned(hashes: Bytes) -> Bytes:
    """Hashes [N, 32] of pictures in their 8 orientations [8, N, 32], the first one as it is."""
    bits = np.unpackbits(hashes, axis=1).reshape(-1, _SIDE, _SIDE)
    odd = (np.arange(_SIDE) % 2).astype(np.uint8)
    found = [
        side ^ (odd[:, None] * rows) ^ (odd[None, :] * columns)
        for side in (bits, bits.transpose(0, 2, 1))
        for rows in (0, 1)
        for columns in (0, 1)
    ]
    return np.stack([np.packbits(each.reshape(len(bits), -1), axis=1) for each in found])


def rematch(gate: HashGate, hashes: Bytes, sha256: Sequence[str]) -> list[Rematch]:
    """Stored pictures that a list of `gate` names, in the order of their rows.

    Those of the canaries' bank are none; for the canaries' own list see `proved_rematch`.

    Args:
        gate: with the lists of today.
        hashes: uint8 [N, 32], PDQ of what is stored, or of crops of it.
        sha256: [N], hexadecimal, of the originals' bytes; or `NO_DIGEST`.
    """
    found: dict[int, str] = {}
    lists = [item for item in gate.lists if item.reason is Reason.HASH_MATCH]
    lists.sort(key=lambda item: item.provider == OPERATOR)  # what another list has too is that's
    for item in lists:
        exact = item.exact.get("sha256", set())
        wanted = {entry.hex() for entry in exact}
        for row, digest in enumerate(sha256) if wanted else ():
            if digest in wanted:
                found.setdefault(row, item.name)
    for row, number in _near(hashes, lists):
        found.setdefault(row, lists[number].name)
    return [Rematch(row, found[row]) for row in sorted(found)]


def proved_rematch(gate: HashGate, hashes: Bytes, sha256: Sequence[str]) -> list[Rematch]:
    """As `rematch`, and canaries among the stored pictures were found by the same look-ups.

    What only the canaries' own list names is no hit.

    Raises:
        CanaryError: a canary was not found, or a picture that no list has was; or the gate does not
            have the canaries' own list (`kontext.safety.proof.whole_gate`).
    """
    own = [item for item in gate.lists if item.provider == OPERATOR]
    count, digests = len(hashes), own[0].exact.get("sha256") if own else None
    if not digests:
        raise CanaryError("the gate of the sweep lacks the canaries' list: nothing was swept")
    picture = listed_canary()
    # half a turn would be too far: of drawn shapes many bits are near the median
    quarters = (picture, np.ascontiguousarray(np.rot90(picture)))
    near = np.stack([pdq_dihedral(quarter)[0][0] for quarter in quarters])
    near = np.concatenate([near, near[:1] ^ _FEW_BITS])
    far = ~near[:2]  # near nothing; the second one has a digest that is listed
    names = [NO_DIGEST] * (len(near) + 1) + [min(digests).hex()]
    found = rematch(gate, np.concatenate([hashes, near, far]), [*sha256, *names])
    canaries = {hit.row - count for hit in found if hit.row >= count}
    wanted = {*range(len(near)), len(near) + 1}
    if canaries != wanted:
        raise CanaryError(
            f"the look-up of stored pictures found {len(canaries & wanted)} of {len(wanted)} "
            f"canaries, and {len(canaries - wanted)} that no list has: nothing was swept"
        )
    return [hit for hit in found if hit.row < count and hit.provider != own[0].name]


def _near(hashes: Bytes, lists: Sequence[HashList]) -> list[tuple[int, int]]:
    """(row, number of the list) of stored hashes near an entry; the first list of each row."""
    owner = np.repeat(np.arange(len(lists)), [len(item.pdq) for item in lists])
    if not len(owner) or not len(hashes):
        return []
    entries = np.concatenate([item.pdq for item in lists])
    # the index is of what is stored, mostly the larger side: its buckets stay few
    different, row_of = np.unique(hashes, axis=0, return_inverse=True)
    index = PdqIndex(different)
    near: dict[int, int] = {}
    queries = turned(entries).reshape(-1, 32)
    starts = range(0, len(queries), _AT_ONCE)
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # numpy lets go of Python's lock
        every = threads.map(lambda start: index.within(queries[start : start + _AT_ONCE]), starts)
        for start, hits in zip(starts, every, strict=True):
            for query, row in zip(hits.query.tolist(), hits.row.tolist(), strict=True):
                number = int(owner[(start + query) % len(owner)])
                near[row] = min(near.get(row, len(lists)), number)
    return _rows(row_of, near)


def _rows(row_of: NDArray[np.integer], near: dict[int, int]) -> list[tuple[int, int]]:
    mine = np.flatnonzero(np.isin(row_of, list(near)))
    return [(int(row), near[int(row_of[row])]) for row in mine]
