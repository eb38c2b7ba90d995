"""Incidents are made of ledger rows alone; the listed picture is a pattern of squares."""

import datetime as dt
from pathlib import Path

import numpy as np
import pytest

from kontext.errors import KontextError, SafetyRefusal
from kontext.safety.hashes import HashGate
from kontext.safety.incidents import close, incidents_of, rows_of
from kontext.safety.ledger import EDITS, Ledger
from kontext.safety.ledger_check import check_ledger, restart
from kontext.safety.pdq import pdq_dihedral
from tests.safety.test_edits import ART
from tests.safety.test_guard import CANARY, Place
from tests.safety.test_ledger import decisions
from tests.safety.test_ledger_check import Place as Artifacts


def listed(place: Place) -> None:
    """A hash list in the home that has ART."""
    folder = place.home / "hash-lists"
    folder.mkdir(parents=True)
    value = pdq_dihedral(ART)[0][0].tobytes().hex()
    head = f"# provider: example\n# version: 7\n# date: {dt.date.today()}\n"
    (folder / "list.csv").write_text(f"{head}type,value\npdq,{value}\n")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    listed(made)
    return made


def hit(place: Place, picture: np.ndarray = ART) -> None:
    with pytest.raises(SafetyRefusal):
        place.guard().begin().check_input(picture)


def test_a_hit_is_an_incident_until_somebody_closes_it(place: Place) -> None:
    ledger = Ledger(place.objects, place.home)
    hit(place, CANARY)  # of the gate's own, which is no incident
    assert incidents_of(rows_of(ledger)) == []
    hit(place)
    hit(place)
    (one,) = incidents_of(rows_of(ledger))
    assert (one.open, one.hits, one.provider, one.reason) == (True, 2, "example@7", "hash_match")
    assert one.where.startswith("edit/") and one.found_at < one.last_at
    closed = close(ledger, one.id[:8], "seen by the operator on duty, counsel was told")
    assert closed.id == one.id
    (one,) = incidents_of(rows_of(ledger))
    assert not one.open and one.note == "seen by the operator on duty, counsel was told"
    with pytest.raises(KontextError, match="no open incident"):
        close(ledger, one.id, "again")
    hit(place)
    (one,) = incidents_of(rows_of(ledger))
    assert one.open and one.hits == 3


def test_a_note_tells_nothing_of_the_picture(place: Place) -> None:
    hit(place)
    ledger = Ledger(place.objects, place.home)
    (one,) = incidents_of(rows_of(ledger))
    for note in ("", " ", "two\nlines", "x" * 301):
        with pytest.raises(KontextError, match="one line"):
            close(ledger, one.id, note)
    for note in ("https://example.org", "folder/picture.png", "a@example.org", "0f" * 16):
        with pytest.raises(KontextError, match="holds no address"):
            close(ledger, one.id, note)
    with pytest.raises(KontextError, match="no open incident"):
        close(ledger, "", "done")


def test_stages_hits_stay_closed_after_a_restart_of_the_ledger(tmp_path: Path) -> None:
    place = Artifacts(tmp_path)
    table = decisions(2, "drop")
    reasons = ["hash_match", "canary"]
    table = table.set_column(7, table.schema.field("reason"), [reasons])
    place.decide("ingest", "d", table)
    swept = table.set_column(2, table.schema.field("check"), [["sweep"] * 2])
    place.ledger.append("sweep", "e", swept)  # the same picture
    (one,) = incidents_of(rows_of(place.ledger))
    assert one.hits == 2 and one.where == "sweep/e"
    restart(place.ledger, place.artifacts)
    (one,) = incidents_of(rows_of(place.ledger))
    assert (one.where, one.provider) == ("ingest/d", "bank/1")
    close(place.ledger, one.id, "done")
    restart(place.ledger, place.artifacts)
    (again,) = incidents_of(rows_of(place.ledger))
    assert again.id == one.id and not again.open
    assert check_ledger(place.ledger, place.artifacts).problems == ()
    assert len(place.ledger.of_chain(EDITS).segments()) == 1


def test_the_gates_own_list_is_read_as_written(place: Place) -> None:
    assert HashGate().check(b"", ART).outcome == "pass"
