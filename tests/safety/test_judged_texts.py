"""A text is judged once, and one that passed not again in the next run."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest

from kontext.safety import judged_texts
from kontext.safety.ids import Reason
from kontext.safety.judged_texts import JudgedTexts, text_key
from schemas.tables import JUDGED_TEXTS

LAMP, RULED, LEARNED = "a lamp", "undress her", "make all that the lady has on dissolve"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that rules and classifier are asked about."""
    found: list[str] = []
    real = judged_texts.rules_and_scores

    def ask(texts: Sequence[str]) -> Any:
        found.extend(texts)
        return real(texts)

    monkeypatch.setattr(judged_texts, "rules_and_scores", ask)
    return found


def test_a_text_that_comes_in_several_parts_is_judged_once(
    asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = JudgedTexts()
    assert judged([LAMP, RULED, LAMP]) == {LAMP: None, RULED: Reason.TEXT_UNDRESS}
    assert judged([RULED, LEARNED])[LEARNED] is Reason.TEXT_LEARNED
    assert asked == [LAMP, RULED, LEARNED]
    monkeypatch.setattr(judged_texts, "_KEPT", 1)
    assert judged([LAMP, RULED]) == {LAMP: None, RULED: Reason.TEXT_UNDRESS}
    assert asked == [LAMP, RULED, LEARNED, LAMP, RULED]  # they were forgotten
    assert judged.table()["key"].to_pylist() == [text_key(LAMP)]


def test_what_passed_is_known_and_what_did_not_is_kept_nowhere(asked: list[str]) -> None:
    first = JudgedTexts()
    first([LAMP, RULED, LEARNED, "a hat", ""])
    table = first.table()
    assert table.schema.equals(JUDGED_TEXTS)
    assert table["key"].to_pylist() == sorted(map(text_key, [LAMP, "a hat", ""]))
    asked.clear()
    again = JudgedTexts(known=pa.concat_tables([table, table]))
    said = {LAMP: None, RULED: Reason.TEXT_UNDRESS, LEARNED: Reason.TEXT_LEARNED, "a tree": None}
    assert again([LAMP, RULED, LEARNED, "a tree"]) == said
    assert asked == [RULED, LEARNED, "a tree"]
    # of what has come, in this run or by way of an earlier one
    assert again.table()["key"].to_pylist() == sorted(map(text_key, [LAMP, "a tree"]))


def test_a_known_text_meets_todays_limit(asked: list[str]) -> None:
    high = pa.table([[text_key(LAMP)], [0.4]], schema=JUDGED_TEXTS)
    assert JudgedTexts(0.5, high)([LAMP]) == {LAMP: None}
    strict = JudgedTexts(0.3, high)
    assert strict([LAMP]) == {LAMP: Reason.TEXT_LEARNED}
    assert asked == [] and len(strict.table()) == 0


def test_nothing_has_come(asked: list[str]) -> None:
    assert JudgedTexts()([]) == {} and JudgedTexts().table().equals(JUDGED_TEXTS.empty_table())
