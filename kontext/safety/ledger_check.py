"""Whether a ledger is whole: its signatures, its heads, and the decisions that artifacts hold."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa

from kontext.errors import LedgerError, ObjectNotFound
from kontext.safety.ledger import (
    EDITS,
    GENESIS,
    Ledger,
    Segment,
    claim_key,
    problem_in,
    read_claim,
)
from kontext.safety.own_work import is_own
from kontext.store.artifacts.artifact_store import Artifact, ArtifactStore
from kontext.store.parquet import parquet_bytes, read_parquet
from schemas.manifest import Manifest
from schemas.tables import DECISIONS

CHANGES_RESULTS = False  # reads what stages have decided

DECISIONS_FILE = "decisions.parquet"
DECIDING = ("ingest", "screen")  # stages that cannot be done without decisions


@dataclass(frozen=True)
class LedgerReport:
    """Result of a check."""

    segments: int
    rows: int
    problems: tuple[str, ...]  # empty: every row is as it was written, and none is missing
    notes: tuple[str, ...] = ()  # what could not be checked
    edits: int = 0  # segments of edits and refusals, which are among the segments


def check_ledger(ledger: Ledger, store: ArtifactStore) -> LedgerReport:
    """Check every signature, that no segment is missing, and every artifact's decisions.

    Raises:
        GateError: a key of the home cannot be used.
        StoreError: the store cannot be read.
    """
    main, decided = _check_chain(ledger)
    edits, _ = _check_chain(ledger.of_chain(EDITS))
    problems = [*main.problems, *(f"edits: {problem}" for problem in edits.problems)]
    for manifest in store.list():
        problems += _artifact(manifest, store, decided)
    notes = (main.notes if main.segments else ()) + (edits.notes if edits.segments else ())
    segments, rows = main.segments + edits.segments, main.rows + edits.rows
    return LedgerReport(segments, rows, tuple(problems), notes, edits.segments)


def _check_chain(ledger: Ledger) -> tuple[LedgerReport, dict[str, pa.Table]]:
    """What is wrong with one chain, and the rows of each of its artifacts."""
    segments, problems = _claims(ledger)
    rows = 0
    decided: dict[str, pa.Table] = {}
    for segment in segments:
        table, problem = _rows(ledger, segment)
        problems += [problem] if problem else []
        if table is not None:
            rows += table.num_rows
            decided.setdefault(segment.artifact, table)
    problems += _order(segments)
    lost, notes = _heads(ledger, [segment.seq for segment in segments])
    problems += lost
    return LedgerReport(len(segments), rows, tuple(problems), tuple(notes)), decided


def restart(ledger: Ledger, store: ArtifactStore) -> int:
    """Set the ledger aside and begin a new one with the decisions of the artifacts that are there.

    For a store that was emptied on purpose, a key that is lost, and ledgers from before they were
    signed. The old objects and heads stay, under `ledger-before-TIME/`. The chain of edits goes on,
    unless it is not whole.

    Where the home has its key, decisions are taken over that the old ledger has signed just so, or
    that lie in artifacts which this home has made (`kontext.safety.own_work`). Where nothing of the
    old one can be checked, because the key is lost or it was never signed, they are taken over as
    they are, and every row says so (`unsigned`).

    Returns how many artifacts' decisions are in the new one.

    Raises:
        LedgerError: an artifact's decisions are others than were signed, or nobody's. Nothing was
            changed.
    """
    deciding = _believed(ledger, store)
    # two within a second must not put theirs over each other
    aside = f"ledger-before-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}/"
    edits = ledger.of_chain(EDITS)
    gone = [ledger, *([edits] if _check_chain(edits)[0].problems else [])]
    places = [(ledger.objects, f"{each.chain}/") for each in gone]
    # without a key no head of any store can be checked again, and while one is there none is made
    heads = [ledger.head_key(f"{each.chain}/") for each in gone] if ledger.has_key else [""]
    places += [(ledger.heads, head) for head in heads]
    for objects, prefix in places:
        for key in objects.list(prefix):
            if not key.startswith("ledger-before-"):
                objects.put(aside + key, objects.get(key))
                objects.delete(key)
    for each in gone:
        each.forget()
    for manifest, signed in deciding:
        table = Artifact(store, manifest).table(DECISIONS_FILE)
        run = f"restart of {aside}" + ("" if signed else ", unsigned")
        ledger.append(manifest.stage, manifest.digest, table, run=run)
    return len(deciding)


def _believed(ledger: Ledger, store: ArtifactStore) -> list[tuple[Manifest, bool]]:
    """Artifacts whose decisions a new ledger takes over, and whether anybody has signed them.

    Raises LedgerError where they are others than were signed, or nobody's although some are.
    """
    signed = _signed(ledger)
    found = []
    for manifest in store.list():
        name = f"{manifest.stage}/{manifest.digest}"
        if name in signed:
            problems = _artifact(manifest, store, signed)
            if problems or not _file(manifest):
                raise LedgerError(
                    f"{name}: its decisions are not those that were signed. Bring it back from a "
                    "backup, or remove it, and restart again"
                )
        if not _file(manifest):
            continue
        own = name in signed or is_own(store.objects, ledger.home, manifest)
        if not own and signed:
            raise LedgerError(
                f"{name}: nobody has signed its decisions. Remove it (and import it, if it came "
                "from elsewhere), and restart again"
            )
        found.append((manifest, own))
    return found


def _signed(ledger: Ledger) -> dict[str, pa.Table]:
    """Rows by artifact of every segment that is as a key of ours has signed it."""
    found: dict[str, pa.Table] = {}
    for segment in _claims(ledger)[0]:
        table, problem = _rows(ledger, segment)
        if table is not None and not problem:
            found[segment.artifact] = table
    return found


def _claims(ledger: Ledger) -> tuple[list[Segment], list[str]]:
    keys, segments, problems = ledger.keys(), [], []
    for name in ledger.objects.list(f"{ledger.chain}/seq/"):
        try:
            segments.append(read_claim(name, ledger.objects.get(name), keys, ledger.chain))
        except LedgerError as error:
            problems.append(str(error))
    return segments, problems


def _rows(ledger: Ledger, segment: Segment) -> tuple[pa.Table | None, str]:
    """A segment's rows, and what is wrong with them."""
    try:
        table = read_parquet(ledger.objects.get(segment.key))
    except ObjectNotFound:
        return None, f"segment {segment.seq}: {segment.key} is missing"
    except (pa.ArrowException, OSError) as error:  # a damaged page is an OSError
        return None, f"segment {segment.seq}: unreadable ({type(error).__name__})"
    return table, problem_in(segment, table, ledger.keys()[segment.key_id])


def _order(segments: list[Segment]) -> list[str]:
    problems, previous, expected = [], GENESIS, 0
    for segment in segments:
        if segment.seq != expected:
            problems.append(f"segment {expected} is missing")
        elif segment.first_prev_hash != previous:
            problems.append(f"segment {segment.seq}: does not follow the segment before")
        previous, expected = segment.last_hash, segment.seq + 1
    seen: set[str] = set()
    for segment in segments:
        if segment.artifact in seen:
            problems.append(f"segment {segment.seq}: {segment.artifact} is there twice")
        seen.add(segment.artifact)
    return problems


def _heads(ledger: Ledger, written: Sequence[int]) -> tuple[list[str], list[str]]:
    """What the copies outside the store know of and the store has lost; and notes."""
    heads, problems = ledger.heads, []
    kept = heads.list(ledger.head_key(f"{ledger.chain}/seq/"))
    for name in kept:
        seq = _seq(name)
        try:
            there = ledger.objects.get(claim_key(seq, ledger.chain))
        except ObjectNotFound:
            problems.append(f"segment {seq} was written and is gone")
            continue
        if there != heads.get(name):
            problems.append(f"segment {seq} is another than was written")
    remembered = ledger.written
    lost = [seq for seq in range(remembered) if seq not in set(written)]
    problems += [f"segment {seq} was written and is gone" for seq in lost if not kept]
    if remembered and remembered - 1 not in map(_seq, kept):
        problems.append(
            f"the copy of segment {remembered - 1}'s claim is gone from {heads.url}: bring it back "
            "from a backup, or from where the copies lay before"
        )
    if kept:
        bare = set(written) - {_seq(name) for name in kept}
        few = f"{len(bare)} segments have no copy of their claim in {heads.url}"
        return problems, [f"{few}: a cut there would not be seen"] if bare else []
    if remembered:
        return problems, []
    note = f"no copies of this ledger's claims are in {heads.url}: a cut end would not be seen"
    return problems, [note]


def _seq(head: str) -> int:
    return int(head.rsplit("/", 1)[1].removesuffix(".json"))


def _artifact(
    manifest: Manifest, store: ArtifactStore, decided: Mapping[str, pa.Table]
) -> list[str]:
    name = f"{manifest.stage}/{manifest.digest}"
    if not _file(manifest):
        missing = manifest.stage in DECIDING
        return [f"{name} has no {DECISIONS_FILE}"] if missing else []
    if name not in decided:
        return [f"{name}: its decisions are not in the ledger"]
    try:
        own, entered = (
            table.select(DECISIONS.names).cast(DECISIONS)
            for table in (Artifact(store, manifest).table(DECISIONS_FILE), decided[name])
        )
    except (KeyError, pa.ArrowException, OSError) as error:
        return [f"{name}: its decisions cannot be read ({type(error).__name__})"]
    # as bytes: a score that is not a number is unequal to itself
    same = parquet_bytes(own) == parquet_bytes(entered)
    return [] if same else [f"{name}: its decisions are not those of the ledger"]


def _file(manifest: Manifest) -> bool:
    return any(file.name == DECISIONS_FILE for file in manifest.files)
