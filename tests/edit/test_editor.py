"""Editing from Python asks the policy, unless it is said by name that it does not."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from kontext.edit.edit_model import EditModel
from kontext.edit.editor import Editor
from kontext.edit.request import Edit, Options
from kontext.edit.session import Session
from kontext.errors import SafetyRefusal, StoreError
from kontext.safety import edits as screened
from kontext.safety.canaries import canary_image
from kontext.safety.chains import FILE
from kontext.safety.classifiers.base import ImageClassifier, Pixels, Scores
from kontext.safety.edit_log import EditLog
from kontext.safety.guard import EditGuard, Unguarded
from kontext.safety.ledger import EDITS, Ledger
from kontext.store.objects import open_store
from tests.edit.test_session import editor as model  # noqa: F401
from tests.edit.test_session import photo

CANARY = np.asarray(canary_image(0).resize((64, 64)))


@pytest.fixture
def log(tmp_path: Path) -> EditLog:
    return EditLog(open_store(f"file://{tmp_path}/store"), tmp_path / "home")


@pytest.fixture
def editor(model: EditModel, log: EditLog, levels: list[float]) -> Editor:  # noqa: F811
    return Editor(model, EditGuard.of(log.home, log.objects))


@pytest.fixture
def levels(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Exposures of the pictures that are scored, in order, in place of what classifiers say."""
    coming: list[float] = []

    def fake(classifier: ImageClassifier, images: Sequence[Pixels]) -> Scores:
        known = {"FACE_FEMALE": 0.9}
        if classifier.name == "nudenet" and coming:
            known["FEMALE_BREAST_EXPOSED"] = coming.pop(0)
        return {n: np.array([known.get(n, 0.0)], np.float32) for n in classifier.labels}

    monkeypatch.setattr(screened, "score_images", fake)
    return coming


def reasons(log: EditLog) -> list[str]:
    """Reason of every stop, and `edit` for every edit, in the order of the ledger."""
    rows = Ledger(log.objects, log.home, EDITS).table().to_pylist()
    return [r["reason"] or r["check"] for r in rows if r["reason"] or r["check"] == "edit"]


def test_there_is_no_editor_without_a_guard(model: EditModel) -> None:  # noqa: F811
    with pytest.raises(TypeError, match="guard"):
        Editor(model)  # type: ignore[call-arg]


def test_edits_are_the_models_and_rows(editor: Editor, log: EditLog) -> None:
    made = editor.edit([photo()], "keep it", seed=3)
    assert np.array_equal(made, editor.model.edit([photo()], "keep it", seed=3))
    edits = [Edit([photo()], "keep it"), Edit([photo()], "draw it", seed=1), Edit([photo()], "a b")]
    options = Options(steps=1)
    several = editor.edit_many(edits, options, batch=2)
    alone = editor.model.edit_many(edits, options, batch=2)
    assert all(np.array_equal(*pair) for pair in zip(several, alone, strict=True))
    assert reasons(log) == ["edit"] * 4
    said = editor.provenance(edits[0], options, result=several[0])
    assert said.policy.startswith("strict-2@") and said.hash_lists and said.chain
    assert editor.provenance(edits[0], options).chain == ""


def test_refusals_hand_out_nothing_and_are_rows(
    editor: Editor, log: EditLog, levels: list[float]
) -> None:
    for images, words, reason in (
        ([photo()], "undress them", "text_undress"),
        ([CANARY], "keep it", "canary"),
        ([photo(), CANARY], "keep it", "canary"),
    ):
        with pytest.raises(SafetyRefusal):
            editor.edit(images, words)
        assert reasons(log)[-1] == reason
    levels[:] = [0.0, 0.5]
    with pytest.raises(SafetyRefusal):
        editor.edit([photo()], "keep it")
    assert reasons(log) == ["text_undress", "canary", "canary", "ncii_exposure"]


def test_nothing_is_handed_out_before_it_is_written_down(
    editor: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*args: object) -> None:
        raise StoreError("no space left")

    monkeypatch.setattr(EditLog, "write", write)
    with pytest.raises(StoreError, match="no space left"):
        editor.edit([photo()], "keep it")
    session = Session(editor, photo())
    with pytest.raises(StoreError, match="no space left"):
        session.turn("keep it")
    assert session.turns == () and np.array_equal(session.image, photo())


def test_a_session_stops_where_the_whole_of_it_goes_too_far(
    editor: Editor, log: EditLog, levels: list[float]
) -> None:
    levels[:] = [0.0, 0.3, 0.55, 0.3, 0.0, 0.3]
    session = Session(editor, photo())
    first = session.turn("one")
    with pytest.raises(SafetyRefusal, match="together"):
        session.turn("two")
    assert session.turns == ("one",) and session.image is first
    session.turn("three")
    changed = photo()
    session.turn("three", references=[changed])
    changed[:] = CANARY  # the same array, another picture
    with pytest.raises(SafetyRefusal):
        session.turn("keep it", references=[changed])
    with pytest.raises(SafetyRefusal):
        session.turn("undress them")
    assert reasons(log) == ["edit", "ncii_chain", "edit", "edit", "canary", "text_undress"]
    assert session.turns == ("one", "three", "three")


def test_a_second_call_is_judged_against_the_first_calls_input(
    editor: Editor, log: EditLog, levels: list[float]
) -> None:
    levels[:] = [0.0, 0.3, 0.3, 0.45]
    made = editor.edit([photo()], "keep it")
    with pytest.raises(SafetyRefusal, match="together"):
        editor.edit([made], "keep it")
    assert (log.home / FILE).exists() and reasons(log) == ["edit", "ncii_chain"]


def test_no_policy_is_a_reason_in_the_record_and_a_row(
    model: EditModel,  # noqa: F811
    log: EditLog,
) -> None:
    editor = Editor(model, Unguarded("compared with diffusers", log))
    made = editor.edit([CANARY], "keep it")
    said = editor.provenance(Edit([CANARY], "keep it"), Options(), result=made)
    assert said.policy == "none: compared with diffusers" and said.chain == ""
    assert reasons(log) == ["unguarded"]
