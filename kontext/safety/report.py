"""The safety report of a store and home: what was decided, by which rules, and what is not known.

Counts, names of lists and policies, and keyed ids: nothing that was dropped is read or shown.
"""

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kontext.errors import KontextError, LedgerError
from kontext.safety.hashes import STALE_DAYS, load_hash_list
from kontext.safety.ids import Check, Outcome, Reason
from kontext.safety.incidents import Incident, incidents_of, rows_of
from kontext.safety.ledger import Ledger
from kontext.safety.ledger_check import LedgerReport, check_ledger
from kontext.safety.list_files import list_files
from kontext.safety.policy import load_policy, packaged_policies
from kontext.store.artifacts.artifact_store import ArtifactStore
from schemas.manifest import Manifest
from schemas.risks import risks

CHANGES_RESULTS = False  # reads what stages have decided

_EDITS = "edit"
_NEVER_MEASURED = (
    "Recall of the image classifiers: no harmful image was or should be at hand.",
    "Text rules and classifier on phrasings by more than one author who wrote none of their words.",
    "Hash look-ups after crops of a tenth or turns of some degrees: PDQ does not know those.",
)


@dataclass(frozen=True)
class ListState:
    """A hash list in force: never its entries."""

    name: str  # provider@version
    date: str
    age_days: int
    stale: bool  # older than 30 days


@dataclass(frozen=True)
class GateRun:
    """An ingest: its canaries, and what it has noted."""

    artifact: str
    made_at: str
    canaries: int  # injected
    stopped: int
    lists: int | None  # hash lists that were matched; None where it did not say
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Count:
    """How many decisions are alike."""

    stage: str
    check: str
    outcome: str
    reason: str
    count: int


@dataclass(frozen=True)
class PolicyUse:
    """A policy in the ledger, and whether it is one that is shipped with this version."""

    id: str
    stage: str
    decisions: int
    shipped: bool


@dataclass(frozen=True)
class SafetyReport:
    """All of it. `problems` are what an operator has to see to first."""

    made_at: str
    store: str
    ledger: LedgerReport
    decisions: tuple[Count, ...]
    lists: tuple[ListState, ...]
    policies: tuple[PolicyUse, ...]
    runs: tuple[GateRun, ...]
    edits: int  # results that were handed out
    unguarded: int  # of them, without a policy
    refusals: tuple[Count, ...]  # of edits, with checks that could not be made
    incidents: tuple[Incident, ...]
    not_measured: tuple[str, ...]
    problems: tuple[str, ...] = field(default=())

    @property
    def open_incidents(self) -> tuple[Incident, ...]:
        """Those that nobody has closed."""
        return tuple(one for one in self.incidents if one.open)

    def as_json(self) -> dict[str, Any]:
        """The report as JSON has it: times are ISO 8601."""
        made: dict[str, Any] = _plain(asdict(self))
        return made


def safety_report(
    ledger: Ledger, store: ArtifactStore, home: Path, today: dt.date | None = None
) -> SafetyReport:
    """Collect the report.

    Raises:
        GateError: a key of the home cannot be used.
        StoreError: the store cannot be read.
    """
    checked = check_ledger(ledger, store)
    problems = [f"ledger: {problem}" for problem in checked.problems]
    try:
        rows = rows_of(ledger)
    except LedgerError as error:
        rows = []
        problems.append(f"no decision is counted, because the ledger is not whole: {error}")
    lists, unread = _lists(home, today or dt.date.today())
    runs = [_gate_run(m) for m in store.list("ingest")]
    problems += [*unread, *_problems(lists, runs)]
    edits = [row for row in rows if row["check"] == Check.EDIT]
    found = incidents_of(rows)
    opened = sum(one.open for one in found)
    several = "incidents" if opened > 1 else "incident"
    problems += [f"{opened} {several} that nobody has closed"] if opened else []
    return SafetyReport(
        made_at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        store=ledger.objects.url,
        ledger=checked,
        decisions=_counts(row for row in rows if _stage(row) not in (_EDITS, "operator")),
        lists=tuple(lists),
        policies=_policies(rows),
        runs=tuple(sorted(runs, key=lambda run: run.made_at)),
        edits=len(edits),
        unguarded=sum(row["reason"] == Reason.UNGUARDED for row in edits),
        refusals=_counts(r for r in rows if _stage(r) == _EDITS and r["outcome"] in _STOPS),
        incidents=tuple(found),
        not_measured=_not_measured(lists),
        problems=tuple(problems),
    )


_STOPS = (Outcome.DROP, Outcome.QUARANTINE, Outcome.ERROR)


def _stage(row: Mapping[str, Any]) -> str:
    return str(row["artifact"]).partition("/")[0]


def _counts(rows: Iterable[Mapping[str, Any]]) -> tuple[Count, ...]:
    found = Counter(
        (_stage(row), str(row["check"]), str(row["outcome"]), str(row["reason"])) for row in rows
    )
    return tuple(Count(*key, count) for key, count in sorted(found.items()))


def _policies(rows: Iterable[Mapping[str, Any]]) -> tuple[PolicyUse, ...]:
    shipped = {load_policy(name).id for name in packaged_policies()}
    used = Counter((row["policy_version"], _stage(row)) for row in rows if row["policy_version"])
    return tuple(PolicyUse(*key, count, key[0] in shipped) for key, count in sorted(used.items()))


def _lists(home: Path, today: dt.date) -> tuple[list[ListState], list[str]]:
    """The hash lists of the home, and what cannot be used of them."""
    found, problems = [], []
    for path in list_files((), home):
        try:
            one = load_hash_list(path, home)
        except KontextError as error:
            problems.append(str(error))
            continue
        age = (today - one.date).days
        found.append(ListState(one.name, one.date.isoformat(), age, age > STALE_DAYS))
    return found, problems


def _gate_run(manifest: Manifest) -> GateRun:
    metrics, planned = manifest.metrics, manifest.config.get("canaries", 0)
    lists = metrics.get("hash_lists")
    return GateRun(
        artifact=f"{manifest.stage}/{manifest.digest}",
        made_at=manifest.created_at,
        canaries=int(planned),
        stopped=int(metrics.get("canaries_stopped") or 0),
        lists=None if lists is None else int(lists),
        notes=tuple(manifest.notes),
    )


def _problems(lists: Sequence[ListState], runs: Sequence[GateRun]) -> list[str]:
    found = [] if lists else ["no hash list: only the canary bank is matched"]
    found += [f"hash list {one.name} is {one.age_days} days old" for one in lists if one.stale]
    found += [f"hash list {one.name} is dated ahead" for one in lists if one.age_days < -1]
    found += [
        f"{run.artifact}: {run.stopped} of {run.canaries} canaries were stopped"
        for run in runs
        if run.stopped != run.canaries or not run.canaries
    ]
    return found


def _not_measured(lists: Sequence[ListState]) -> tuple[str, ...]:
    found = [*_NEVER_MEASURED]
    if not lists:
        found.insert(0, "Whether any picture is a known harmful one: there is no hash list.")
    if not any("minor" in name or "age" in name for name in risks()):
        found.append("Whether a picture shows somebody young: no classifier estimates age.")
    found.append("Edits of other homes and stores, and what editors without this project make.")
    return tuple(found)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.isoformat() if isinstance(value, dt.datetime) else value
