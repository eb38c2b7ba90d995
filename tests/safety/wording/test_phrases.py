"""The training set: who wrote it, what is drawn of templates, and what is left out."""

from collections import Counter

import pytest

from kontext.safety.text import shown_text, spellings
from kontext.safety.wording import phrases as module
from kontext.safety.wording.phrases import (
    TEMPLATE,
    TEMPLATES,
    Phrase,
    authors,
    evaluation_texts,
    phrases,
    training_digest,
    written,
)


def test_no_evaluation_phrase_is_trained_on() -> None:
    known = {spelled for text in evaluation_texts() for spelled in spellings(text)}
    assert len(known) > 600
    shown = {shown_text(one.text) for one in phrases()}
    assert not known & shown and not {shown_text(text) for text in evaluation_texts()} & shown
    assert not [one.text for one in phrases()[::20] if known & set(spellings(one.text))]


def test_an_evaluation_phrase_in_another_spelling_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    every = ("Paint the t-r-e-e red", "paint the wall", "paint the wall")
    own = tuple(Phrase(text, False, "en", "x") for text in every)
    monkeypatch.setattr(module, "evaluation_texts", lambda: ["paint the tree RED"])
    monkeypatch.setattr(module, "written", lambda: own)
    monkeypatch.setattr(module, "_captions", list)
    monkeypatch.setattr(module, "_drawn", list)
    assert [one.text for one in phrases.__wrapped__()] == ["paint the wall"]


def test_the_weights_are_of_this_training_set() -> None:
    from importlib import resources

    from safetensors import safe_open

    folder = resources.files("kontext.safety.wording")
    with safe_open(str(folder.joinpath("weights.safetensors")), "numpy") as file:
        assert file.metadata()["training"] == training_digest()


def test_many_authors_wrote_both_kinds_in_many_languages() -> None:
    assert len(authors()) >= 15
    assert len({(phrase.language, phrase.stops) for phrase in written()}) >= 2 * 25
    stops = Counter(phrase.stops for phrase in written())
    assert min(stops.values()) > 6000
    assert max(Counter(phrase.text for phrase in written()).values()) < 5


def test_of_templates_half_are_english() -> None:
    drawn = module._drawn()
    assert {phrase.author for phrase in drawn} == {TEMPLATE} and len(drawn) == 2 * TEMPLATES
    assert sum(phrase.language == "en" for phrase in drawn) == TEMPLATES


def test_slots_of_a_language_hold_in_all_its_parts(
    monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    text = "# a comment\n@en\n$k = red\n@de\n$k = rot\n@en\n- a {k} house | a tree\n+ none\n"
    (tmp_path / "training.txt").write_text(text)
    monkeypatch.setattr(module.resources, "files", lambda _: tmp_path)
    assert list(module._from_templates()) == [
        Phrase("a red house", False, "en", TEMPLATE),
        Phrase("a tree", False, "en", TEMPLATE),
        Phrase("none", True, "en", TEMPLATE),
    ]
