"""The training set: templates, what is said around them, and the earlier phrasings."""

import pytest

from kontext.safety.wording import phrases as module
from kontext.safety.wording.phrases import EARLIER, Phrase, earlier, phrases


def test_the_earlier_phrasings_choose_settings() -> None:
    tuning = [phrase for phrase in phrases() if phrase.tunes]
    assert {phrase.template for phrase in tuning} == {EARLIER}
    assert len(tuning) > 600 and {phrase.stops for phrase in tuning} == {True, False}
    assert len({phrase.language for phrase in earlier()}) == 25


def test_every_language_has_both_kinds() -> None:
    found = {(phrase.language, phrase.stops) for phrase in phrases() if not phrase.tunes}
    assert len(found) == 50


def test_some_phrases_come_in_longer_sentences() -> None:
    framed = [phrase for phrase in phrases() if phrase.template.startswith("{framed}")]
    assert 0.1 < len(framed) / len(phrases()) < 0.4
    before, after = ["please"], ["thanks"]
    made = {text for n in range(99) for text in module._framed(f"paint {n}", before, after)}
    assert {"please", "paint"} == {text.split()[0] for text in made}
    assert any(text.endswith(" thanks") for text in made)
    assert module._framed("paint it", [], []) == []


def test_slots_of_a_language_hold_in_all_its_parts(
    monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    text = "# a comment\n@en\n$k = red\n@de\n$k = rot\n@en\n- a {k} house | a tree\n+ none\n"
    (tmp_path / "training.txt").write_text(text)
    monkeypatch.setattr(module.resources, "files", lambda _: tmp_path)
    assert list(module._written()) == [
        Phrase("a red house", False, "en", "a {k} house"),
        Phrase("a tree", False, "en", "a tree"),
        Phrase("none", True, "en", "none"),
    ]
