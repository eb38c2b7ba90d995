"""The safety ledger: append-only, signed, one segment per artifact that made decisions.

    ledger/<seq>-<hash>.parquet   rows of one segment; <hash> is its last row's
    ledger/seq/<seq>.json         claims the sequence number (conditional put): this is the commit

Each row has an HMAC over itself and the row before, and each claim one over all that it says, by
the key of the home (`kontext.safety.keys`). So nobody without the key can change, move or add a row
or a claim. What they can do is take the end away, or everything. Therefore a copy of every claim is
kept outside the store, its *heads*: in HOME/ledger-heads, or where KONTEXT_LEDGER_HEADS says (a
folder, or a bucket that the store's writers cannot delete from). `kontext.safety.ledger_check`
compares all of it, and the decisions that the artifacts hold. How many segments there were the home
remembers too (`kontext.safety.witness`), so heads that are gone are missed.

Edits and refusals, and what operators close, are a chain of their own, `edits/…`, of the same form:
there may be very many of them, and a run reads all of the artifacts' claims.
"""

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from kontext.errors import LedgerError, ObjectExists
from kontext.safety import witness
from kontext.safety.keys import HEADS, KEY_FILE, key_id, known_keys, run_key, signing_key
from kontext.store.objects import ObjectStore, open_store
from kontext.store.parquet import parquet_bytes, read_parquet
from schemas.catalog import LEDGER
from schemas.tables import DECISIONS

CHANGES_RESULTS = False  # keeps decisions that stages have made

GENESIS = "0" * 64
HEADS_URL = "KONTEXT_LEDGER_HEADS"
ARTIFACTS, EDITS = "ledger", "edits"  # the chains of a store
IMPORTED = "import of "  # begins the `run` of decisions that another home has made
_TRIES = 100


@dataclass(frozen=True)
class Segment:
    """One committed segment, as its claim says."""

    seq: int
    artifact: str  # stage/digest; edit/ID and operator/ID in the chain of edits
    key: str  # object that holds the rows
    rows: int
    first_prev_hash: str
    last_hash: str
    key_id: str  # of the key that signed it
    signature: str = ""  # HMAC-SHA256 of all of the above

    def signed(self, key: bytes) -> "Segment":
        """The segment with its signature by a home's key."""
        said = {**asdict(self), "signature": ""}
        text = json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
        signature = hmac.new(signing_key(key), b"claim " + text, hashlib.sha256)
        return replace(self, signature=signature.hexdigest())

    def claim(self) -> bytes:
        """The object that commits it."""
        return json.dumps(asdict(self), sort_keys=True).encode()


class Ledger:
    """The ledger of one object store, written and checked with the keys of a home."""

    def __init__(self, objects: ObjectStore, home: Path, chain: str = ARTIFACTS) -> None:
        """Nothing is read, made or checked yet. `chain` is ARTIFACTS or EDITS."""
        self.objects, self.home, self.chain = objects, home, chain
        self._known = 0  # segments that there are at least

    @property
    def heads(self) -> ObjectStore:
        """Where the copies of claims lie, of all stores that this home writes to."""
        return open_store(os.environ.get(HEADS_URL) or str(self.home / HEADS))

    def head_key(self, name: str) -> str:
        """Key of a head: the store's name, and the claim's."""
        return f"{hashlib.sha256(self.objects.url.encode()).hexdigest()[:16]}/{name}"

    @property
    def written(self) -> int:
        """How many segments the home remembers. Raises LedgerError."""
        return witness.written(self.home, self.head_key("").rstrip("/"), self.chain)

    def forget(self) -> None:
        """Remember no segment of this chain any more; of none where the home has lost its key."""
        if self.has_key:
            witness.forget(self.home, self.head_key("").rstrip("/"), self.chain)
        else:
            witness.forget(self.home)

    def of_chain(self, chain: str) -> "Ledger":
        """Another chain of the same store and home."""
        return Ledger(self.objects, self.home, chain)

    @property
    def has_key(self) -> bool:
        """Whether the home has a key of its own."""
        return (self.home / KEY_FILE).exists()

    def keys(self) -> Mapping[str, bytes]:
        """Key id -> key, of all keys that this home knows. Raises GateError."""
        return known_keys(self.home)

    def segments(self) -> list[Segment]:
        """Committed segments in order, each signed by a key that this home knows.

        Raises:
            LedgerError: a claim cannot be read, or none of our keys has signed it.
        """
        keys = self.keys()
        names = self.objects.list(f"{self.chain}/seq/")
        return [read_claim(name, self.objects.get(name), keys, self.chain) for name in names]

    def append(self, stage: str, digest: str, decisions: Path | pa.Table, run: str = "") -> Segment:
        """Append an artifact's decisions (columns of DECISIONS), once per artifact.

        A second call for the same artifact returns the segment that is there.

        Raises:
            LedgerError: what is there was changed, or cut off.
            GateError: the home's key cannot be used.
        """
        table = decisions if isinstance(decisions, pa.Table) else read_parquet(decisions)
        artifact = f"{stage}/{digest}"
        for _ in range(_TRIES):
            written = self._written()  # first: others may append meanwhile
            before = self.segments()
            if written > len(before):
                raise self._lost(len(before), written)
            for segment in before:
                if segment.artifact == artifact:
                    self._keep_head(segment)  # in case we were killed before it was
                    return segment
            previous = before[-1].last_hash if before else GENESIS
            claimed = self._claim(len(before), previous, artifact, table, run)
            if claimed is not None:
                return claimed
        raise self._crowded()

    def add(self, kind: str, rows: pa.Table) -> Segment:
        """Append a segment of its own (columns of DECISIONS), by reading the last claim alone.

        Several processes may do so at once: each finds its place.

        Raises:
            LedgerError: the last claim was changed, or the end was cut off.
            GateError: the home's key cannot be used.
        """
        name = f"{kind}/{secrets.token_hex(8)}"
        for _ in range(_TRIES):
            seq, last = self.end()
            claimed = self._claim(seq, last.last_hash if last else GENESIS, name, rows, "")
            if claimed is not None:
                return claimed
        raise self._crowded()

    def end(self) -> tuple[int, Segment | None]:
        """How many segments there are, and the last one, whose signature is checked.

        Raises:
            LedgerError: it was changed, or segments after it are gone.
        """
        written = self.written  # first: others may append meanwhile
        low, step = self._known, 1
        while self._has(low + step - 1):
            low, step = low + step, 2 * step
        high = low + step - 1  # absent; all below `low` are there
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self._has(middle) else (low, middle)
        self._known = low
        if self.heads.info(self.head_key(claim_key(low, self.chain))) is not None:
            if self._has(low):  # somebody appends
                return self.end()
            raise self._lost(low, low + 1)
        if low < written:
            raise self._lost(low, written)
        if not low:
            return 0, None
        name = claim_key(low - 1, self.chain)
        return low, read_claim(name, self.objects.get(name), self.keys(), self.chain)

    def _has(self, seq: int) -> bool:
        return self.objects.info(claim_key(seq, self.chain)) is not None

    def _crowded(self) -> LedgerError:
        return LedgerError(f"the ledger in {self.objects.url} is being appended to all the time")

    def _lost(self, there: int, written: int) -> LedgerError:
        return LedgerError(
            f"the ledger in {self.objects.url} has lost segments: it has {there}, and "
            f"{written} were written (see `kontext safety verify`)"
        )

    def table(self, artifacts: Iterable[str] | None = None) -> pa.Table:
        """Rows of the ledger, or of some artifacts (`stage/digest`), in chain order.

        Raises:
            LedgerError: a row or claim is not as it was written.
        """
        wanted = None if artifacts is None else set(artifacts)
        keys, tables = self.keys(), []
        for segment in self.segments():
            if wanted is None or segment.artifact in wanted:
                table = read_parquet(self.objects.get(segment.key))
                if problem := problem_in(segment, table, keys[segment.key_id]):
                    raise LedgerError(problem)
                tables.append(table.select(LEDGER.names).cast(LEDGER))
        return pa.concat_tables(tables) if tables else LEDGER.empty_table()

    def _claim(
        self, seq: int, previous: str, artifact: str, table: pa.Table, run: str
    ) -> Segment | None:
        """The segment, committed with its head; None where another has taken its number."""
        key = run_key(self.home)
        chained = _chain(table, previous, artifact, run, key)
        last = chained["row_hash"][-1].as_py() if chained.num_rows else previous
        name = f"{self.chain}/{seq:012d}-{last}.parquet"
        self.objects.put(name, parquet_bytes(chained))
        segment = Segment(seq, artifact, name, chained.num_rows, previous, last, key_id(key))
        segment = segment.signed(key)
        try:
            self.objects.put(claim_key(seq, self.chain), segment.claim(), if_absent=True)
        except ObjectExists:
            if chained.num_rows:  # its name carries our time: nobody else wrote it
                self.objects.delete(name)
            return None
        self._keep_head(segment)
        return segment

    def _keep_head(self, segment: Segment) -> None:
        name = self.head_key(claim_key(segment.seq, self.chain))
        if self.heads.info(name) is None:
            self.heads.put(name, segment.claim())
        store = self.head_key("").rstrip("/")
        witness.remember(self.home, store, self.chain, segment.seq + 1)

    def _written(self) -> int:
        """How many segments the heads know of, or the home."""
        kept = self.heads.list(self.head_key(f"{self.chain}/seq/"))
        return max(int(Path(kept[-1]).stem) + 1 if kept else 0, self.written)


def claim_key(seq: int, chain: str = ARTIFACTS) -> str:
    """The object that claims a sequence number."""
    return f"{chain}/seq/{seq:012d}.json"


def read_claim(
    name: str, data: bytes, keys: Mapping[str, bytes], chain: str = ARTIFACTS
) -> Segment:
    """A claim that one of the keys has signed.

    Raises:
        LedgerError: it cannot be read, or no key that we know has signed what it says.
    """
    try:
        segment = Segment(**json.loads(data))
        signer = keys.get(segment.key_id)
        signed = None if signer is None else segment.signed(signer)
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise LedgerError(
            f"{name} is damaged, or from before ledgers were signed (`kontext safety restart`)"
        ) from error
    if signed is None:
        raise LedgerError(
            f"{name} was signed with the key {ascii(segment.key_id)[1:17]}, which this home does "
            "not have: put it into HOME/safety.keys"
        )
    # as bytes: text that is not ASCII cannot be compared
    said = str(segment.signature).encode("utf-8", "backslashreplace")
    if not hmac.compare_digest(signed.signature.encode(), said):
        raise LedgerError(f"{name} was changed: its signature is not that of its content")
    if claim_key(segment.seq, chain) != name:
        raise LedgerError(f"{name} is the claim of segment {segment.seq}")
    return segment


def problem_in(segment: Segment, table: pa.Table, key: bytes) -> str:
    """What is wrong with a segment's rows; empty where nothing is."""
    where = f"segment {segment.seq}"
    if table.num_rows != segment.rows:
        return f"{where}: {table.num_rows} rows instead of {segment.rows}"
    if table.schema.names != LEDGER.names or table.schema.types != LEDGER.types:
        return f"{where}: not the columns of a ledger"
    previous, signing = segment.first_prev_hash, signing_key(key)
    for number, row in enumerate(table.to_pylist()):
        if row["prev_hash"] != previous:
            return f"{where}: row {number} does not follow the row before"
        if row["row_hash"] != _row_hash(row, signing) or row["artifact"] != segment.artifact:
            return f"{where}: row {number} was changed"
        previous = row["row_hash"]
    return "" if previous == segment.last_hash else f"{where}: ends with another hash"


def _chain(table: pa.Table, previous: str, artifact: str, run: str, key: bytes) -> pa.Table:
    rows = table.select(DECISIONS.names).cast(DECISIONS).to_pylist()
    now, signing = datetime.now(UTC), signing_key(key)
    for row in rows:
        row.update(decided_at=now, run=run, artifact=artifact, prev_hash=previous)
        previous = row["row_hash"] = _row_hash(row, signing)
    return pa.Table.from_pylist(rows, schema=LEDGER)


def _row_hash(row: dict[str, Any], signing: bytes) -> str:
    values = [row[name] for name in LEDGER.names if name != "row_hash"]
    text = json.dumps(
        [v.isoformat() if isinstance(v, datetime) else v for v in values],
        separators=(",", ":"),
    )
    return hmac.new(signing, b"row " + text.encode(), hashlib.sha256).hexdigest()
