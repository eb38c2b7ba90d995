"""A text is judged once, and not again in the next run where the key vouches that it passed."""

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from kontext.errors import CanaryError
from kontext.safety import judged_texts
from kontext.safety.ids import Reason
from kontext.safety.judged_texts import FILE, JudgedTexts, known_texts
from kontext.safety.texts import CANARIES
from kontext.safety.wording.classifier import TextClassifier
from schemas.recipes import load_recipe
from schemas.tables import JUDGED_TEXTS
from tests.stages.stage_harness import Harness

KEY, OTHER = b"a key of a home, 32 bytes long...", b"the key of somebody else's home.."
LAMP, RULED, LEARNED = "a lamp", "undress her", "make all that the lady has on dissolve"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that rules and classifier are asked about."""
    found: list[str] = []
    real = judged_texts.judge_texts

    def ask(texts: Sequence[str], limit: float) -> Any:
        found.extend(texts)
        return real(texts, limit)

    monkeypatch.setattr(judged_texts, "judge_texts", ask)
    return found


def known(*hmacs: str) -> pa.Table:
    return pa.table([list(hmacs)], schema=JUDGED_TEXTS)


def test_a_text_that_comes_in_several_parts_is_judged_once(
    asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = JudgedTexts(KEY)
    assert judged([LAMP, RULED, LAMP]) == {LAMP: None, RULED: Reason.TEXT_UNDRESS}
    assert judged([RULED, LEARNED])[LEARNED] is Reason.TEXT_LEARNED
    assert asked == [LAMP, RULED, LEARNED]
    monkeypatch.setattr(judged_texts, "_KEPT", 1)
    assert judged([LAMP, RULED]) == {LAMP: None, RULED: Reason.TEXT_UNDRESS}
    assert asked == [LAMP, RULED, LEARNED, LAMP, RULED]  # they were forgotten
    assert judged.table()["text_hmac"].to_pylist() == [judged.hmac(LAMP)]


def test_what_passed_is_known_and_what_did_not_is_kept_nowhere(asked: list[str]) -> None:
    first = JudgedTexts(KEY)
    first([LAMP, RULED, LEARNED, "a hat", ""])
    table = first.table()
    assert table.schema.equals(JUDGED_TEXTS)
    assert table["text_hmac"].to_pylist() == sorted(map(first.hmac, [LAMP, "a hat", ""]))
    asked.clear()
    again = JudgedTexts(KEY, known=pa.concat_tables([table, table]))
    said = {LAMP: None, RULED: Reason.TEXT_UNDRESS, LEARNED: Reason.TEXT_LEARNED, "a tree": None}
    assert again([LAMP, RULED, LEARNED, "a tree"]) == said
    assert asked == [RULED, LEARNED, "a tree"]
    # of what has come, in this run or by way of an earlier one
    assert again.table()["text_hmac"].to_pylist() == sorted(map(first.hmac, [LAMP, "a tree"]))


@pytest.mark.parametrize("text", [RULED, LEARNED])
def test_who_has_not_the_key_cannot_let_a_text_pass(text: str) -> None:
    """An artifact from outside may say of any text that it passed."""
    forged = known(
        blake2b(text.encode(), digest_size=16).hexdigest(),
        JudgedTexts(OTHER).hmac(text),
        JudgedTexts(None).hmac(text),
        text,
    )
    for key in (KEY, None):
        assert JudgedTexts(key, known=forged)([text])[text] is not None


def test_of_a_table_that_holds_no_hmacs_nothing_is_known(asked: list[str], tmp_path: Path) -> None:
    """Such as those of before there were keys, or what somebody has made up."""
    store, judged = Harness(tmp_path, load_recipe("ci")), JudgedTexts(KEY)
    score = pa.array([0.0], pa.float32())
    tables = {
        "caption": pa.table({"key": [judged.hmac(LAMP)], "score": score}),
        "screen": pa.table({"text_hmac": [0.5]}),
        "mine": known(judged.hmac("a hat")),
        "shard": known("", "ü" * 32, judged.hmac("a tree") + "0", judged.hmac("a tree").upper()),
    }
    made = [store.make(name, lambda out, t=table: out.add_table(FILE, t))  # type: ignore[misc]
            for name, table in tables.items()]  # fmt: skip
    made.append(store.make("index", lambda out: None))
    JudgedTexts(KEY, known=known_texts(made))([LAMP, "a hat", "a tree"])
    assert asked == [LAMP, "a tree"]
    nothing = pa.table([pa.array([None], pa.string())], schema=JUDGED_TEXTS)
    assert JudgedTexts(KEY, known=nothing)([LAMP]) == {LAMP: None}


@pytest.mark.parametrize("change", ["limit", "rules", "classifier", "code"])
def test_what_another_limit_or_other_rules_let_pass_is_judged(
    asked: list[str], monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    before = JudgedTexts(KEY, 0.5)
    before([LAMP])
    limit = 0.3 if change == "limit" else 0.5
    if change in ("rules", "classifier"):
        rules, _, classifier = judged_texts.judged_by().partition("+")
        now = f"text-0+{classifier}" if change == "rules" else f"{rules}+wording-0"
        monkeypatch.setattr(judged_texts, "judged_by", lambda: now)
    asked.clear()
    JudgedTexts(KEY, limit, before.table(), "other" if change == "code" else "")([LAMP])
    assert asked == [LAMP]


@pytest.mark.parametrize("canary", CANARIES)
def test_a_canary_among_the_known_texts_ends_the_run(canary: str) -> None:
    JudgedTexts(KEY).prove()
    with pytest.raises(CanaryError, match="1 of 10 canaries"):
        JudgedTexts(KEY, known=known(JudgedTexts(KEY).hmac(canary))).prove()


def test_what_breaks_between_two_proofs_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = JudgedTexts(KEY)
    judged.prove()
    judged([LAMP])
    monkeypatch.setattr(
        TextClassifier, "scores", lambda self, given, whole=False: np.zeros(len(given))
    )
    with pytest.raises(CanaryError, match="the text classifier stopped 0 of"):
        judged.prove()


def test_proof_leaves_nothing_among_the_texts_that_passed() -> None:
    judged = JudgedTexts(KEY)
    judged.prove()
    assert judged.table().equals(JUDGED_TEXTS.empty_table())


def test_nothing_has_come(asked: list[str]) -> None:
    judged = JudgedTexts(KEY)
    assert judged([]) == {} and judged.table().equals(JUDGED_TEXTS.empty_table())
