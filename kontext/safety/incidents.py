"""Incidents: what is on a list of known harmful images, for a trained operator.

An incident is no file of its own: every hash hit is a row of the ledger, and one that nobody has
closed since is open. It holds keyed ids alone; there is nothing to look at, and nothing is reported
to anybody. `docs/safety-runbook.md` says what the operator does. Closing is a row, too.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from kontext.errors import KontextError, LedgerError, ObjectNotFound
from kontext.safety.ids import Check, Decision, Outcome, Reason
from kontext.safety.ledger import EDITS, Ledger
from schemas.tables import DECISIONS

CHANGES_RESULTS = False  # reads what stages have decided

LONGEST_NOTE = 300  # characters
_HITS = (Reason.HASH_MATCH, Reason.HASH_MATCH_LOW_QUALITY)
_TELLING = re.compile(r"://|www\.|@|[0-9a-fA-F]{32,}|[\\/]")
_AGAIN = "restart of "  # runs that enter old rows anew


@dataclass(frozen=True)
class Incident:
    """One picture that a list has."""

    id: str  # 16 hex characters
    subject_hmac: str
    found_at: datetime  # at first
    last_at: datetime
    hits: int
    where: str  # stage/digest, or edit/ID, of the last hit
    provider: str  # list and version
    reason: str
    open: bool  # whether nobody has closed it since its last hit
    closed_at: datetime | None = None
    note: str = ""


def incidents_of(rows: Iterable[Mapping[str, Any]]) -> list[Incident]:
    """The incidents in LEDGER rows of both chains: open ones first, each in order of time."""
    hits: dict[str, list[Mapping[str, Any]]] = {}
    closed: dict[str, Mapping[str, Any]] = {}
    for row in sorted(rows, key=lambda row: row["decided_at"]):
        if row["check"] in (Check.HASH_GATE, Check.SWEEP) and row["reason"] in _HITS:
            hits.setdefault(row["subject_hmac"], []).append(row)
        elif row["reason"] == Reason.INCIDENT_CLOSED:
            closed[row["subject_hmac"]] = row
    found = [_incident(own, closed.get(_full_id(subject))) for subject, own in hits.items()]
    return sorted(found, key=lambda one: (not one.open, one.found_at))


def rows_of(ledger: Ledger) -> list[dict[str, Any]]:
    """LEDGER rows of both chains. Raises LedgerError where one is not as it was written."""
    chains = (ledger, ledger.of_chain(EDITS))
    try:
        return [row for chain in chains for row in chain.table().to_pylist()]
    except (ObjectNotFound, pa.ArrowException, OSError) as error:
        what = type(error).__name__
        raise LedgerError(f"rows of the ledger are missing or damaged ({what})") from error


def close(ledger: Ledger, name: str, note: str) -> Incident:
    """Close an open incident, by its id or the beginning of it; the note is in the ledger.

    Raises:
        KontextError: no such open incident, or a note that says what it must not.
        LedgerError: the ledger is not as it was written.
    """
    _check_note(note)
    known = [one for one in incidents_of(rows_of(ledger)) if one.open]
    found = [one for one in known if name and one.id.startswith(name)]
    if len(found) != 1:
        which = "several open incidents" if found else "no open incident"
        raise KontextError(f"{which} called {name[:16]}: see `kontext safety incidents`")
    subject = _full_id(found[0].subject_hmac)
    row = Decision(
        "incident",
        subject,
        Check.OPERATOR,
        f"note: {note}",
        Outcome.PASS,
        Reason.INCIDENT_CLOSED,
        "",
    )
    table = pa.Table.from_pylist([row._asdict()], schema=DECISIONS)
    ledger.of_chain(EDITS).add("operator", table)
    return found[0]


def _check_note(note: str) -> None:
    if not note.strip() or len(note) > LONGEST_NOTE or not note.isprintable():
        raise KontextError(f"a note is one line of 1 to {LONGEST_NOTE} characters")
    if _TELLING.search(note):
        raise KontextError(
            "a note holds no address, path, account or hash: it stays in the ledger for ever"
        )


def _full_id(subject: str) -> str:
    return hashlib.sha256(b"incident " + subject.encode()).hexdigest()


def _incident(hits: list[Mapping[str, Any]], closed: Mapping[str, Any] | None) -> Incident:
    # a restart of the ledger enters old rows once more, which is no new hit
    seen = [row for row in hits if not row["run"].startswith(_AGAIN)]
    first, last = (seen or hits)[0], (seen or hits)[-1]
    again = closed is not None and bool(seen) and last["decided_at"] > closed["decided_at"]
    return Incident(
        id=_full_id(last["subject_hmac"])[:16],
        subject_hmac=last["subject_hmac"],
        found_at=first["decided_at"],
        last_at=last["decided_at"],
        hits=len(seen or hits),
        where=last["artifact"],
        provider=last["provider"],
        reason=last["reason"],
        open=closed is None or again,
        closed_at=closed["decided_at"] if closed else None,
        note=closed["provider"].removeprefix("note: ") if closed else "",
    )
