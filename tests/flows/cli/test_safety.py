"""`kontext safety …`: one line for a whole ledger, exit 1 for one that was touched."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows import cli
from kontext.errors import ExchangeError, KontextError, LedgerError
from kontext.safety.keys import KEY_FILE
from kontext.store.parquet import parquet_bytes, read_parquet
from tests.safety.test_ledger import decisions
from tests.safety.test_ledger_check import Place


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("KONTEXT_HOME", f"{tmp_path}/home")
    place = Place(tmp_path)
    for number in range(3):
        place.decide("screen", f"d{number}", decisions(4))
    return place


def safety(place: Place, *words: str) -> Any:
    return CliRunner().invoke(cli.app, ["safety", *words, "--store", place.objects.url])


def test_a_whole_ledger(place: Place) -> None:
    found = safety(place, "verify")
    assert found.exit_code == 0
    assert found.output == "3 segments, 12 decisions\nthe ledger is whole\n"
    report = json.loads(safety(place, "verify", "--json").output)
    assert report == {"segments": 3, "rows": 12, "problems": [], "notes": [], "edits": 0}


def test_a_changed_decision_and_a_missing_segment_are_named(place: Place) -> None:
    changed, gone = (s.key for s in place.ledger.segments()[:2])
    table = read_parquet(place.objects.get(changed))
    column = table.column_names.index("outcome")
    place.objects.put(changed, parquet_bytes(table.set_column(column, "outcome", [["keep"] * 4])))
    place.objects.delete(gone)
    found = safety(place, "verify")
    assert isinstance(found.exception, LedgerError)
    assert "segment 0: row 0 was changed" in found.output
    assert f"segment 1: {gone} is missing" in found.output
    assert "screen/d1: its decisions are not in the ledger" in found.output


def test_a_restart_is_said_before_it_is_done(place: Place, tmp_path: Path) -> None:
    (tmp_path / "home" / KEY_FILE).unlink()
    assert safety(place, "restart").exit_code == 2
    found = safety(place, "restart", "--yes")
    assert found.output == "a new ledger begins with the decisions of 3 artifacts\n"
    assert safety(place, "verify").exit_code == 0


def test_the_report_is_a_page_or_json(place: Place, tmp_path: Path) -> None:
    found = safety(place, "report")
    page = Path(found.stdout.strip())
    assert page == tmp_path / "home" / "reports" / "safety.html" and "<h1>" in page.read_text()
    assert "no hash list" in found.stderr
    said = json.loads(safety(place, "report", "--json").stdout)
    assert said["decisions"][0]["count"] == 12 and said["ledger"]["segments"] == 3
    other = tmp_path / "out" / "report.json"
    assert safety(place, "report", "-o", str(other)).exit_code == 0
    assert json.loads(other.read_text())["decisions"] == said["decisions"]
    assert safety(place, "report", "-o", "report.pdf").exit_code == 2


def test_incidents_are_listed_and_closed(place: Place) -> None:
    table = decisions(1, "drop")
    hit = table.set_column(7, table.schema.field("reason"), [["hash_match"]])
    place.decide("ingest", "d9", hit)
    (row,) = json.loads(safety(place, "incidents", "list", "--json").stdout)
    assert row["open"] and row["where"] == "ingest/d9"
    listed = safety(place, "incidents")
    assert row["id"] in listed.stdout and "1 open, 0 closed" in listed.stderr
    refused = safety(place, "incidents", "close", row["id"], "--note", "see /tmp/x")
    assert isinstance(refused.exception, KontextError)
    done = safety(place, "incidents", "close", row["id"], "--note", "counsel was told")
    assert done.stdout == f"incident {row['id']} is closed\n"
    assert "closed: counsel was told" in safety(place, "incidents", "list").stdout
    assert safety(place, "verify").exit_code == 0


def test_a_sweep_of_a_store_without_pictures_says_so(place: Place) -> None:
    found = safety(place, "sweep", "--dry-run")
    assert found.exit_code == 0 and "0 pictures were kept; named: none" in found.output
    record = json.loads(safety(place, "sweep", "--json").stdout)
    assert record["kept"] == 0 and record["versions"] == [] and record["purged"] is None


def test_lists_are_fetched_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("threatexchange")
    home = tmp_path / "home"
    monkeypatch.setenv("KONTEXT_HOME", str(home))

    def fetch(*words: str) -> Any:
        return CliRunner().invoke(cli.app, ["safety", "fetch", *words])

    assert "no exchange is set up" in str(fetch().exception)
    (home / "exchanges").mkdir(parents=True)
    for name in ("ours", "lost"):
        path = home / "exchanges" / f"{name}.yaml"
        path.touch(0o600)
        path.write_text(f"kind: local-file\npath: {name}.txt\n")
    (home / "ours.txt").write_text(f"pdq {'0f' * 32}\npdq 12\nurl https://example.org\n")
    found = fetch()
    assert isinstance(found.exception, ExchangeError)
    assert "exchange lost: its file cannot be read" in found.output
    assert "1 hashes (+1 -0); not used: 1 url; malformed: 1" in found.output
    said = json.loads(fetch("ours", "--full", "--json").stdout)
    assert (said["failed"], said["fetched"][0]["hashes"]) == ([], 1)
    assert fetch("theirs").exit_code == 2
