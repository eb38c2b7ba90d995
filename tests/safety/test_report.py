import datetime as dt
import json
from pathlib import Path

import pytest

from kontext.errors import SafetyRefusal
from kontext.safety.guard import Unguarded
from kontext.safety.incidents import close
from kontext.safety.ledger import Ledger
from kontext.safety.policy import load_policy
from kontext.safety.report import SafetyReport, safety_report
from kontext.safety.report_page import report_page
from kontext.store.artifacts.artifact_store import ArtifactStore
from schemas.manifest import Manifest
from tests.safety.test_edits import ART
from tests.safety.test_guard import Place, picture
from tests.safety.test_incidents import hit, listed
from tests.safety.test_ledger import decisions


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def report(place: Place, today: dt.date | None = None) -> SafetyReport:
    artifacts = ArtifactStore(place.objects, place.home / "cache")
    return safety_report(Ledger(place.objects, place.home), artifacts, place.home, today)


def ingest(place: Place, stopped: int = 2) -> None:
    artifacts = ArtifactStore(place.objects, place.home / "cache")
    writer = artifacts.writer("ingest", "d1")
    table = decisions(4)
    outcomes, reasons = ["pass", "drop", "drop", "pass"], ["", "canary", "canary", ""]
    table = table.set_column(6, table.schema.field("outcome"), [outcomes])
    table = table.set_column(7, table.schema.field("reason"), [reasons])
    writer.add_table("decisions.parquet", table)
    Ledger(place.objects, place.home).append("ingest", "d1", table)
    metrics = {"canaries_stopped": stopped, "hash_lists": 1}
    manifest = Manifest(
        stage="ingest", digest="d1", code_digest="c", config={"canaries": 2}, inputs={},
        seconds=1.0, files=list(writer.files.values()), metrics=metrics, notes=["a <note>"],
        kernels={}, packages={}, recipe="ci", created_at="2026-01-01T00:00:00Z", git_commit="",
    )  # fmt: skip
    writer.commit(manifest)


def edits(place: Place) -> None:
    """One edit, one without a policy, one that a rule refuses, and a hit."""
    screening = place.guard().begin()
    screening.check_input(picture(1))
    screening.check_result(picture(2))
    screening.commit()
    bare = Unguarded("a test", place.log).begin()
    bare.check_result(picture(3))
    bare.commit()
    with pytest.raises(SafetyRefusal):
        place.guard().begin().check_instruction("undress them")
    hit(place)


def test_everything_that_was_decided_is_counted(place: Place) -> None:
    listed(place)
    ingest(place)
    edits(place)
    made = report(place)
    counts = {(row.stage, row.check, row.reason): row.count for row in made.decisions}
    assert counts == {("ingest", "hash_gate", ""): 2, ("ingest", "hash_gate", "canary"): 2}
    assert (made.edits, made.unguarded, made.ledger.edits) == (2, 1, 4)
    refused = {(row.check, row.reason): row.count for row in made.refusals}
    assert refused == {("text_rule", "text_undress"): 1, ("hash_gate", "hash_match"): 1}
    (known,) = made.lists
    assert (known.name, known.age_days, known.stale) == ("example@7", 0, False)
    used = {(use.id, use.stage): use.shipped for use in made.policies}
    assert used[load_policy("strict").id, "edit"] and not used["1", "ingest"]
    (run,) = made.runs
    assert (run.stopped, run.canaries, run.lists) == (2, 2, 1)
    assert made.problems == ("1 incident that nobody has closed",)
    close(Ledger(place.objects, place.home), made.open_incidents[0].id, "seen to")
    assert report(place).problems == () and report(place).open_incidents == ()
    assert any("age" in line for line in made.not_measured)


def test_what_an_operator_has_to_see_to_is_said(place: Place) -> None:
    assert report(place).problems == ("no hash list: only the canary bank is matched",)
    assert "there is no hash list" in report(place).not_measured[0]
    listed(place)
    ingest(place, stopped=1)
    old = dt.date.today() + dt.timedelta(days=45)
    assert report(place, old).problems == (
        "hash list example@7 is 45 days old",
        "ingest/d1: 1 of 2 canaries were stopped",
    )
    (place.home / "hash-lists" / "other.csv").write_text("nothing")
    place.objects.delete(place.objects.list("ledger/seq/")[0])
    problems = report(place).problems
    assert "ledger: segment 0 was written and is gone" in problems
    assert any("the first row must be" in problem for problem in problems)


def test_a_changed_row_is_said_and_nothing_is_counted(place: Place) -> None:
    ingest(place)
    (name,) = [n for n in place.objects.list("ledger/") if n.endswith(".parquet")]
    place.objects.delete(name)
    place.objects.put(name, b"none")
    made = report(place)
    assert made.decisions == () and any("no decision is counted" in p for p in made.problems)


def test_page_and_json_say_the_same_and_hold_nothing_else(place: Place) -> None:
    listed(place)
    ingest(place)
    edits(place)
    made = report(place)
    page, data = report_page(made), json.dumps(made.as_json())
    for text in (page, data):
        for said in ("example@7", load_policy("strict").id, "undress", made.incidents[0].id):
            assert said in text
        assert "undress them" not in text
    assert "a &lt;note&gt;" in page and page.count("<h1>") == 1
    assert made.as_json()["incidents"][0]["open"] is True
    assert report_page(report(Place(place.home / "empty"))).count("<table") == 0
    assert ART is not None
