"""The safety ledger: append-only, hash-chained, one segment per artifact that made decisions.

    ledger/<seq>-<hash>.parquet   rows of one segment; <hash> is its last row's hash
    ledger/seq/<seq>.json         claims the sequence number (conditional put): this is the commit

Each row's hash covers the row and the previous row's hash. So a row that is changed, removed or
moved breaks the chain from there on. A segment without a claim does not exist.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from kontext.errors import ObjectExists, ObjectNotFound, StoreError
from kontext.store.objects import ObjectStore
from kontext.store.parquet import parquet_bytes, read_parquet
from schemas.catalog import LEDGER
from schemas.tables import DECISIONS

CHANGES_RESULTS = False  # keeps decisions that stages have made

GENESIS = "0" * 64


@dataclass(frozen=True)
class Segment:
    """One committed segment."""

    seq: int
    artifact: str  # stage/digest
    key: str
    rows: int
    first_prev_hash: str
    last_hash: str


@dataclass(frozen=True)
class ChainReport:
    """Result of walking the chain."""

    segments: int
    rows: int
    problems: tuple[str, ...]  # empty: every row is as it was written


class Ledger:
    """The ledger of one object store."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    def segments(self) -> list[Segment]:
        """Committed segments in order. Raises StoreError if one cannot be read."""
        keys = self._objects.list("ledger/seq/")
        try:
            return [Segment(**json.loads(self._objects.get(key))) for key in keys]
        except (TypeError, ValueError) as error:
            raise StoreError(f"the ledger's index in {self._objects.url} is damaged") from error

    def append(self, stage: str, digest: str, decisions: Path | pa.Table, run: str = "") -> Segment:
        """Append an artifact's decisions (columns of DECISIONS), once per artifact.

        A second call for the same artifact returns the segment that is there.
        """
        table = decisions if isinstance(decisions, pa.Table) else read_parquet(decisions)
        artifact = f"{stage}/{digest}"
        for _ in range(100):
            before = self.segments()
            for segment in before:
                if segment.artifact == artifact:
                    return segment
            claimed = self._claim(before, artifact, table, run)
            if claimed is not None:
                return claimed
        raise StoreError(f"the ledger in {self._objects.url} is being appended to all the time")

    def table(self, artifacts: Iterable[str] | None = None) -> pa.Table:
        """Rows of the ledger, or of some artifacts (`stage/digest`), in chain order."""
        wanted = None if artifacts is None else set(artifacts)
        tables = [
            read_parquet(self._objects.get(segment.key)).select(LEDGER.names).cast(LEDGER)
            for segment in self.segments()
            if wanted is None or segment.artifact in wanted
        ]
        return pa.concat_tables(tables) if tables else LEDGER.empty_table()

    def verify(self) -> ChainReport:
        """Check every hash of the chain. The report names each segment, and row, that is wrong."""
        problems: list[str] = []
        previous, rows = GENESIS, 0
        segments = self.segments()
        for expected, segment in enumerate(segments):
            if segment.seq != expected:
                problems.append(f"segment {expected} is missing")
            try:
                table = read_parquet(self._objects.get(segment.key))
            except ObjectNotFound:
                problems.append(f"segment {segment.seq}: {segment.key} is missing")
            except pa.ArrowException as error:
                problems.append(f"segment {segment.seq}: unreadable ({type(error).__name__})")
            else:
                problems += _check(segment, table, previous)
                rows += table.num_rows
            previous = segment.last_hash
        return ChainReport(len(segments), rows, tuple(problems))

    def _claim(
        self, before: list[Segment], artifact: str, table: pa.Table, run: str
    ) -> Segment | None:
        seq = len(before)
        previous = before[-1].last_hash if before else GENESIS
        chained = _chain(table, previous, artifact, run, datetime.now(UTC))
        last = chained["row_hash"][-1].as_py() if chained.num_rows else previous
        key = f"ledger/{seq:012d}-{last}.parquet"
        self._objects.put(key, parquet_bytes(chained))
        segment = Segment(seq, artifact, key, chained.num_rows, previous, last)
        claim = json.dumps(segment.__dict__, sort_keys=True).encode()
        try:
            self._objects.put(f"ledger/seq/{seq:012d}.json", claim, if_absent=True)
        except ObjectExists:
            self._objects.delete(key)  # it carries our time, so nobody else wrote this name
            return None
        return segment


def _chain(
    table: pa.Table, previous: str, artifact: str, run: str, decided_at: datetime
) -> pa.Table:
    rows = table.select(DECISIONS.names).cast(DECISIONS).to_pylist()
    for row in rows:
        row.update(decided_at=decided_at, run=run, artifact=artifact, prev_hash=previous)
        previous = row["row_hash"] = _row_hash(row)
    return pa.Table.from_pylist(rows, schema=LEDGER)


def _check(segment: Segment, table: pa.Table, previous: str) -> list[str]:
    where = f"segment {segment.seq}"
    if segment.first_prev_hash != previous:
        return [f"{where}: does not follow the segment before"]
    if table.num_rows != segment.rows:
        return [f"{where}: {table.num_rows} rows instead of {segment.rows}"]
    for number, row in enumerate(table.to_pylist()):
        if row["prev_hash"] != previous:
            return [f"{where}: row {number} does not follow the row before"]
        if row["row_hash"] != _row_hash(row):
            return [f"{where}: row {number} was changed"]
        previous = row["row_hash"]
    return [] if previous == segment.last_hash else [f"{where}: ends with another hash"]


def _row_hash(row: dict[str, Any]) -> str:
    values = [row[name] for name in LEDGER.names if name != "row_hash"]
    text = json.dumps(
        [v.isoformat() if isinstance(v, datetime) else v for v in values],
        separators=(",", ":"),
        allow_nan=False,
    )
    return hashlib.sha256(text.encode()).hexdigest()
