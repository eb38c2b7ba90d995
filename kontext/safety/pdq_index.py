"""Looking up pictures in hash lists: which entries are within 31 bits. Exact at every size.

Short lists are compared with whole, by faiss; long ones by multi-index hashing
(`kontext.safety.multi_index`), whose index is kept in files that processes share.
`python -m benchmarks.hashes --entries 10000000` measures it.
"""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kontext.safety.index_files import opened
from kontext.safety.multi_index import BITS, Bytes, Hits, MultiIndex, build
from kontext.safety.pdq import MAX_DISTANCE

_SHORT = 1 << 16  # entries up to which comparing with all of them is as fast, for one picture


class Match(NamedTuple):
    """Nearest entry within MAX_DISTANCE."""

    row: int
    distance: int


class PdqIndex:
    """Exact search for entries within MAX_DISTANCE."""

    def __init__(self, hashes: Bytes, folder: Path | None = None) -> None:
        """`hashes` is uint8 [N, 32]; a large index is kept in `folder`, where one is named."""
        assert hashes.ndim == 2 and hashes.shape[1] == BITS // 8
        self._size = len(hashes)
        self._large = None
        if self._size > _SHORT:
            make = build if folder is None else partial(opened, folder=folder)
            self._large = MultiIndex(make(hashes, MAX_DISTANCE), MAX_DISTANCE)
        else:
            import faiss

            self._flat = faiss.IndexBinaryFlat(BITS)
            self._flat.add(np.ascontiguousarray(hashes))

    def __len__(self) -> int:
        return self._size

    @property
    def rows(self) -> Bytes | None:
        """The hashes of a large index, as its files have them."""
        return None if self._large is None else self._large.rows

    def within(self, queries: Bytes) -> Hits:
        """Every entry within MAX_DISTANCE of each of `queries` [Q, 32]."""
        if self._large is not None:
            return self._large.search(queries)
        limits, found, rows = self._flat.range_search(
            np.ascontiguousarray(queries), MAX_DISTANCE + 1
        )
        ends = limits.astype(np.int64)
        query = np.repeat(np.arange(len(ends) - 1), ends[1:] - ends[:-1])
        order = np.lexsort((rows, found, query))
        return Hits(query[order], rows[order].astype(np.int64), found[order].astype(np.int64))

    def nearest(self, queries: Bytes) -> Match | None:
        """The entry nearest to any of `queries` [Q, 32], if one is within MAX_DISTANCE.

        Of several that are equally near, the first one of the first query.
        """
        hits = self.within(queries)
        if not len(hits.row):
            return None
        best = np.lexsort((hits.row, hits.query, hits.distance))[0]
        return Match(int(hits.row[best]), int(hits.distance[best]))
