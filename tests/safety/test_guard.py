"""Every edit and every refusal is a row of the ledger, and nothing is handed out before it is."""

import datetime as dt
import multiprocessing
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from kontext.errors import (
    CanaryError,
    GateError,
    KontextError,
    LedgerError,
    SafetyRefusal,
    StoreError,
)
from kontext.safety import edits as module
from kontext.safety import hashes
from kontext.safety.canaries import canary_image
from kontext.safety.classifiers.base import ImageClassifier, Pixels, Scores
from kontext.safety.edit_log import EditLog
from kontext.safety.guard import EditGuard, Unguarded
from kontext.safety.ids import pixel_id, subject_hmac
from kontext.safety.keys import HEADS, run_key
from kontext.safety.ledger import EDITS, Ledger
from kontext.store.objects import open_store
from tests.safety.test_proof import BROKEN, operator_list

ART = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
CANARY = np.asarray(canary_image(2))


class Place:
    """A home, and its store."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.objects = open_store(f"file://{folder}/store")
        self.log = EditLog(self.objects, self.home)

    def guard(self, **more: Sequence[str]) -> EditGuard:
        return EditGuard.of(self.home, self.objects, **more)  # type: ignore[arg-type]

    def rows(self) -> list[tuple[str, str, str]]:
        """Check, outcome and reason of every row, in order."""
        table = Ledger(self.objects, self.home, EDITS).table()
        return [(r["check"], r["outcome"], r["reason"]) for r in table.to_pylist()]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(autouse=True)
def levels(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """Exposure of a picture by its first pixel, in place of what classifiers say."""
    found: dict[int, float] = {}

    def fake(classifier: ImageClassifier, images: Sequence[Pixels]) -> Scores:
        exposure = found.get(int(images[0][0, 0, 0]), 0.0)
        if exposure == 13:
            raise OSError("the model's file is gone")
        known = {"FACE_FEMALE": 0.9, "FEMALE_BREAST_EXPOSED": exposure}
        return {n: np.array([known.get(n, 0.0)], np.float32) for n in classifier.labels}

    monkeypatch.setattr(module, "score_images", fake)
    return found


def picture(first: int) -> Pixels:
    """A picture of its own, whose first pixel is `first`."""
    made = np.random.default_rng(first).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    made = made.repeat(8, 0).repeat(8, 1)
    made[0, 0] = first
    return made


def test_an_edit_is_rows_by_keyed_ids_alone(place: Place) -> None:
    screening = place.guard().begin()
    screening.check_instruction("make the sky purple")
    screening.check_input(picture(1), b"the file of it")
    screening.check_result(picture(2))
    assert place.rows() == []
    screening.commit()
    assert place.rows() == [
        ("text_rule", "pass", ""),
        ("hash_gate", "pass", ""),
        ("hash_gate", "pass", ""),
        ("edit", "pass", ""),
    ]
    table = Ledger(place.objects, place.home, EDITS).table().to_pylist()
    assert table[-1]["subject_hmac"] == subject_hmac(pixel_id(picture(2)), run_key(place.home))
    everything = b"".join(p.read_bytes() for p in place.home.parent.rglob("*") if p.is_file())
    for secret in (b"purple", pixel_id(picture(1)).encode(), pixel_id(picture(2)).encode()):
        assert secret not in everything
    screening.commit()
    assert len(place.rows()) == 4  # once


@pytest.mark.parametrize(
    ("words", "inputs", "result", "row"),
    [
        ("undress them", [], None, ("text_rule", "drop", "text_undress")),
        ("make it red", [CANARY], None, ("hash_gate", "drop", "canary")),
        ("make it red", [picture(1)], CANARY, ("hash_gate", "drop", "canary")),
        ("make it red", [picture(9)], None, ("classifier", "drop", "nudity")),
        ("make it red", [picture(1)], picture(5), ("pair_rule", "drop", "ncii_exposure")),
    ],
)
def test_a_refusal_is_a_row(
    place: Place,
    levels: dict[int, float],
    words: str,
    inputs: list[Pixels],
    result: Pixels | None,
    row: tuple[str, str, str],
) -> None:
    levels |= {9: 0.9, 5: 0.5}
    screening = place.guard().begin()
    with pytest.raises(SafetyRefusal):
        screening.check_instruction(words)
        for image in inputs:
            screening.check_input(image)
        assert result is not None
        screening.check_result(result)
    assert place.rows()[-1] == row
    assert [r for r in place.rows() if r[1] != "pass"] == [row]


@pytest.mark.parametrize("how", ["lists ignored", "lists of the home ignored"])
def test_no_edit_where_a_list_in_force_is_not_matched(
    place: Place, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    operator_list(place.home)
    with monkeypatch.context() as patch:
        BROKEN[how][0](patch)
        hashes._load_gate.cache_clear()
        with pytest.raises(CanaryError, match="holds not all of 1 hash lists"):
            place.guard()
    hashes._load_gate.cache_clear()
    assert place.rows() == [("hash_gate", "error", "gate_error")]
    place.guard()


def test_a_check_that_cannot_be_made_is_a_row(place: Place, levels: dict[int, float]) -> None:
    levels[7] = 13
    with pytest.raises(OSError, match="gone"):
        place.guard().begin().check_input(picture(7))
    ahead = dt.date.today() + dt.timedelta(days=3650)
    folder = place.home / "hash-lists"
    folder.mkdir()
    text = f"# provider: p\n# version: 1\n# date: {ahead}\ntype,value\nmd5,{'0' * 32}\n"
    (folder / "list.csv").write_text(text)
    with pytest.raises(GateError, match="dated ahead"):
        place.guard()
    errors = [row for row in place.rows() if row[1] == "error"]
    assert errors == [("classifier", "error", "gate_error"), ("hash_gate", "error", "gate_error")]


def test_a_ledger_that_cannot_be_written_ends_the_edit(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    screening = place.guard().begin()
    screening.check_result(picture(2))

    def put(*args: object, **kwargs: object) -> str:
        raise StoreError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(type(place.objects), "put", put)
        with pytest.raises(StoreError, match="no space left"):
            screening.commit()
        with pytest.raises(StoreError, match="no space left"):
            place.guard().begin().check_instruction("undress them")
    for claim in place.objects.list("edits/seq/"):
        place.objects.delete(claim)
    place.guard().begin().commit()  # nothing was decided: no row
    screening.commit()
    assert len(place.rows()) == 2
    for claim in place.objects.list("edits/seq/"):
        place.objects.delete(claim)
    with pytest.raises(LedgerError, match="lost segments"):
        place.guard()
    with pytest.raises(LedgerError, match="lost segments"):
        Unguarded("a test", place.log).begin()


def test_no_policy_is_said_by_name_and_is_a_row(place: Place) -> None:
    with pytest.raises(KontextError, match="need a reason"):
        Unguarded(" ", place.log)
    screening = Unguarded("compared with another editor", place.log).begin()
    screening.check_instruction("undress them")
    screening.check_input(CANARY)
    screening.check_result(picture(2))
    screening.commit()
    assert screening.policy == "none: compared with another editor"
    assert screening.token(picture(2)) == screening.hash_lists == ""
    assert place.rows() == [("edit", "pass", "unguarded")]


def steps(place: Place, *pictures: Pixels, token: bool = True, session: bool = False) -> str:
    """The reason why a chain of edits is refused; each is a call of its own, or a turn."""
    screening, said = place.guard().begin(), ""
    try:
        screening.check_input(pictures[0])
        for turn, (before, made) in enumerate(pairwise(pictures)):
            if turn and not session:
                screening = place.guard().begin()
                screening.check_input(before, b"", said if token else "")
            screening.check_result(made, turn if session else 0)
            screening.commit()
            said = screening.token(made)
    except SafetyRefusal as refusal:
        return refusal.reason
    return ""


@pytest.mark.parametrize("session", [True, False])
def test_exposure_that_rises_in_small_steps_is_judged_against_the_first_image(
    place: Place, levels: dict[int, float], session: bool
) -> None:
    levels |= {1: 0.0, 2: 0.3, 3: 0.45}
    path = (picture(1), picture(2), picture(3))
    assert steps(place, *path, session=session, token=False) == "ncii_chain"
    assert place.rows()[-1] == ("pair_rule", "drop", "ncii_chain")
    assert steps(place, picture(2), picture(3), session=session) == "ncii_chain"  # still known


def test_covering_up_and_uncovering_is_a_rise(place: Place, levels: dict[int, float]) -> None:
    levels |= {1: 0.45, 2: 0.0, 3: 0.45}
    for session in (True, False):
        assert steps(place, *map(picture, (1, 2, 3)), session=session) == "ncii_exposure"
    assert steps(place, picture(1), picture(3)) == ""


def test_the_file_says_it_where_the_home_has_forgotten(
    place: Place, levels: dict[int, float]
) -> None:
    levels |= {1: 0.0, 2: 0.3, 3: 0.45}
    screening = place.guard().begin()
    screening.check_input(picture(1))
    screening.check_result(picture(2))
    screening.commit()
    token = screening.token(picture(2))
    (place.home / "edits.sqlite").unlink()
    for said, reason in ((token, "ncii_chain"), (f"A{token}", ""), ("", "")):
        again = place.guard().begin()
        again.check_input(picture(2), b"", said)
        found = ""
        try:
            again.check_result(picture(3))
        except SafetyRefusal as refusal:
            found = refusal.reason
        assert found == reason


def test_drawn_pictures_begin_with_nothing(place: Place, levels: dict[int, float]) -> None:
    levels |= {2: 0.3, 3: 0.45}
    screening = place.guard().begin()
    screening.check_result(picture(2))
    screening.commit()
    assert steps(place, picture(2), picture(3)) == "ncii_chain"


def _edit(folder: Path, number: int) -> None:
    EditLog(open_store(f"file://{folder}/store"), folder / "home").check()
    place = Place(folder)
    for turn in range(3):
        screening = Unguarded("several at once", place.log).begin()
        screening.check_result(picture(10 * number + turn))
        screening.commit()


def test_edits_of_several_processes_all_get_rows(place: Place) -> None:
    run_key(place.home)
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_edit, args=(place.home.parent, n)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert place.rows() == [("edit", "pass", "unguarded")] * 9
    assert len(list((place.home / HEADS).rglob("*.json"))) == 9


def test_production_edits_nothing_without_fresh_lists(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(hashes.PROFILE, hashes.REQUIRED)
    with pytest.raises(GateError, match="no hash list"):
        place.guard()
    path = operator_list(place.home)
    place.guard()
    path.write_text(path.read_text().replace(str(dt.date.today()), "2020-01-01"))
    with pytest.raises(GateError, match="days old"):
        place.guard()
    assert place.rows() == [("hash_gate", "error", "gate_error")] * 2
