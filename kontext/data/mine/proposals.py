"""Candidates on their way to the selection: whole ones in a file, in memory what decides.

Of ten million candidates the rows are gigabytes and what decides is 45 bytes each. The file is
divided by the first byte of the pair id, so that the chosen ones can be read back in pair-id order,
one part at a time.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kontext.data.mine.candidate import Candidate
from kontext.data.sources.stable import stable_hash
from schemas.tables import PAIRS

_AT_A_TIME = 65_536  # candidates as objects
_PARTS = 256

Words = NDArray[np.uint64]


@dataclass(frozen=True)
class Deciding:
    """What the selection looks at, a row per candidate [N]."""

    group: NDArray[np.int32]  # place in `Proposals.groups`
    pair: Words  # 128 bits of the pair id [N, 2]
    target: Words  # 128 bits of a hash of the target's id [N, 2]
    rank: Words  # hash by which candidates are chosen, smallest first [N]


@dataclass(frozen=True)
class Group:
    """Candidates that are chosen together; given ones are kept without quota and cap."""

    relation_class: str
    relation: str
    given: bool


@dataclass
class Proposals:
    """Every candidate that miners proposed and sources brought, in the order of adding.

    Args:
        folder: where the file is made; it has no name there for long.
        seed: of `Deciding.rank`.
    """

    folder: Path
    seed: int
    groups: dict[Group, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        path = self.folder / "proposals.arrow"
        self._sink = pa.OSFile(str(path), "wb")
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        self._writer = pa.ipc.new_file(self._sink, PAIRS, options=options)
        self._path, self._file = path, None
        self._parts: dict[int, list[tuple[int, int]]] = defaultdict(list)  # batch, first place
        self._batches, self._count = 0, 0
        self._deciding: list[Deciding] = []

    def __len__(self) -> int:
        return self._count

    def add(self, candidates: Iterable[Candidate], *, given: bool = False) -> None:
        """Take candidates up; only some are in memory at a time."""
        rest = iter(candidates)
        while some := list(islice(rest, _AT_A_TIME)):
            self._take_up(some, given)

    def _take_up(self, some: list[Candidate], given: bool) -> None:
        ids = np.frombuffer(b"".join(bytes.fromhex(c.pair_id) for c in some), np.uint8)
        part = ids.reshape(-1, 32)[:, 0]
        order = np.argsort(part, kind="stable")
        table = _table([some[row] for row in order])
        ends = np.searchsorted(part[order], np.arange(_PARTS + 1))
        for number, (low, high) in enumerate(pairwise(ends.tolist())):
            if high > low:
                (batch,) = table.slice(low, high - low).to_batches()
                self._writer.write_batch(batch)
                self._parts[number].append((self._batches, self._count + low))
                self._batches += 1
        self._count += len(some)
        targets = [hashlib.blake2b(c.target_id.encode(), digest_size=16).digest() for c in some]
        ranks = [stable_hash(c.pair_id, self.seed) for c in some]
        groups = [self._group(c, given) for c in some]
        self._deciding.append(
            Deciding(
                np.array(groups, np.int32)[order],
                ids.view(np.uint64).reshape(-1, 4)[order, :2],
                np.frombuffer(b"".join(targets), np.uint64).reshape(-1, 2)[order],
                np.array(ranks, np.uint64)[order],
            )
        )

    def _group(self, candidate: Candidate, given: bool) -> int:
        group = Group(candidate.relation_class, candidate.relation, given)
        return self.groups.setdefault(group, len(self.groups))

    def deciding(self) -> Deciding:
        """What the selection looks at, of all candidates."""
        empty = np.zeros((0, 2), np.uint64)
        parts = [Deciding(np.zeros(0, np.int32), empty, empty, empty[:, 0]), *self._deciding]
        columns = [[getattr(part, name) for part in parts] for name in Deciding.__annotations__]
        self._deciding = [Deciding(*map(np.concatenate, columns))]
        return self._deciding[0]

    def rows(self, kept: NDArray[np.bool_]) -> Iterator[pa.Table]:
        """PAIRS rows of the candidates that are `kept` [N], in pair-id order, in parts."""
        reader = self._reader()
        for number in sorted(self._parts):
            found = []
            for batch_number, place in self._parts[number]:
                batch = reader.get_batch(batch_number)
                found.append(batch.filter(pa.array(kept[place : place + len(batch)])))
            yield pa.Table.from_batches(found).sort_by("pair_id")

    def _reader(self) -> pa.ipc.RecordBatchFileReader:
        """The file, which goes when this object does."""
        if self._file is None:
            self._writer.close()
            self._sink.close()
            self._file = pa.OSFile(str(self._path))
            with suppress(OSError):
                self._path.unlink()
        return pa.ipc.open_file(self._file)


def _table(candidates: Iterable[Candidate]) -> pa.Table:
    """PAIRS rows."""
    rows = list(candidates)
    values = {name: [getattr(c, name) for c in rows] for name in PAIRS.names if name != "params"}
    return pa.table(values | {"params": [c.params_json for c in rows]}, PAIRS)
