"""Time stamps of the ledger (RFC 3161): an authority says that it was so at a time.

    HEADS/<store>/<chain>/stamps/<seq>.tsr   its answer over the claim of segment <seq>

The ledger is signed with the home's key, and who has the key can write another one. A stamp of the
newest claim covers the chain before it, and nobody here can make one for yesterday. The authority
is sent a digest of the claim and learns nothing else. Stamps lie beside the copies of the claims
(`kontext.safety.ledger`), and are as safe as those.
"""

import datetime as dt
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kontext.errors import LedgerError, ObjectNotFound
from kontext.safety.ledger import EDITS, Ledger, claim_key
from kontext.safety.ledger_check import LedgerReport

CHANGES_RESULTS = False  # of what was decided before

ROOTS = "KONTEXT_TSA_ROOTS"  # PEM file with the certificates of authorities that are believed
_MOST = 1 << 20  # bytes of an answer


@dataclass(frozen=True)
class Stamp:
    """One that was made, or found."""

    chain: str
    seq: int  # of the segment whose claim it stamps
    at: dt.datetime  # by the authority's clock


@dataclass(frozen=True)
class StampReport:
    """What the stamps of one chain say."""

    stamps: tuple[Stamp, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]  # what could not be checked


def roots_file() -> Path | None:
    """The certificates that the environment names."""
    named = os.environ.get(ROOTS)
    return Path(named).expanduser() if named else None


def stamp(ledger: Ledger, url: str, roots: Path, timeout: float = 30) -> Stamp | None:
    """Have the newest claim of a chain stamped; None where there is none, or it has a stamp.

    Raises:
        LedgerError: the authority cannot be reached, refuses, or is none that `roots` vouch for;
            or the ledger's end is not as it was written.
    """
    import httpx

    client = _client()
    _, last = ledger.end()
    if last is None or ledger.heads.info(_key(ledger, last.seq)) is not None:
        return None
    request = client.TimestampRequestBuilder().data(last.claim()).nonce(nonce=True).build()
    kind = {"Content-Type": "application/timestamp-query"}
    try:
        answer = httpx.post(url, content=request.as_bytes(), headers=kind, timeout=timeout)
        answer.raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise LedgerError(f"the time-stamp authority does not answer: {error}") from error
    data = answer.content[:_MOST]
    at = _verified(data, last.claim(), roots, request.nonce)
    ledger.heads.put(_key(ledger, last.seq), data)
    return Stamp(ledger.chain, last.seq, at)


def check_stamps(ledger: Ledger, roots: Path | None) -> StampReport:
    """Whether every stamp of a chain is one, of the claim that is there now.

    Raises:
        LedgerError: `roots` cannot be read, or the client is not installed.
    """
    names = ledger.heads.list(ledger.head_key(f"{ledger.chain}/stamps/"))
    if not names:
        return StampReport((), (), ())
    if roots is None:
        text = f"{len(names)} time stamps of {ledger.chain} were not checked: set {ROOTS}"
        return StampReport((), (), (text,))
    stamps, problems = [], []
    for name in names:
        seq = int(Path(name).stem)
        try:
            claim = ledger.objects.get(claim_key(seq, ledger.chain))
        except ObjectNotFound:
            problems.append(f"segment {seq} is gone, and has a time stamp")
            continue
        try:
            found = _verified(ledger.heads.get(name), claim, roots)
        except _NoStampError as error:
            problems.append(f"segment {seq}: its time stamp does not hold ({error})")
        else:
            stamps.append(Stamp(ledger.chain, seq, found))
    return StampReport(tuple(stamps), tuple(problems), ())


def with_stamps(report: LedgerReport, ledger: Ledger) -> tuple[LedgerReport, list[Stamp]]:
    """A ledger's report with what its stamps say, and the newest stamp of each chain that holds.

    Raises LedgerError as `check_stamps`.
    """
    newest: list[Stamp] = []
    for chain in (ledger, ledger.of_chain(EDITS)):
        found = check_stamps(chain, roots_file())
        problems = (*report.problems, *(f"{chain.chain}: {text}" for text in found.problems))
        report = replace(report, problems=problems, notes=(*report.notes, *found.notes))
        newest += found.stamps[-1:]
    return report, newest


class _NoStampError(LedgerError):
    """Not a stamp of this claim by a believed authority."""


def _verified(data: bytes, claim: bytes, roots: Path, nonce: int | None = None) -> dt.datetime:
    """When the claim was stamped. Raises LedgerError."""
    client = _client()
    builder = client.VerifierBuilder(roots=_certificates(roots), nonce=nonce)
    try:
        response = client.decode_timestamp_response(data)
        builder.build().verify_message(response, claim)
    except (client.VerificationError, ValueError) as error:
        raise _NoStampError(f"{type(error).__name__}: {error}") from error
    at: dt.datetime = response.tst_info.gen_time
    return at


def _certificates(roots: Path) -> list[Any]:
    from cryptography.x509 import load_pem_x509_certificates

    try:
        return load_pem_x509_certificates(roots.read_bytes())
    except (OSError, ValueError) as error:
        raise LedgerError(f"{roots} has no certificates in PEM") from error


def _key(ledger: Ledger, seq: int) -> str:
    return ledger.head_key(f"{ledger.chain}/stamps/{seq:012d}.tsr")


def _client() -> Any:
    try:
        import rfc3161_client
    except ModuleNotFoundError:
        raise LedgerError(
            "time stamps need rfc3161-client: pip install 'kontext[timestamps]'"
        ) from None
    return rfc3161_client
