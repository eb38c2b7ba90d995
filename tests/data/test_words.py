import numpy as np
import pytest

from kontext.data.words import MOST_CHARS, prove_words, refused_names, refused_words
from kontext.errors import CanaryError
from kontext.safety.ids import Reason
from kontext.safety.wording.classifier import TextClassifier


def test_words_are_refused_by_their_meaning_alone() -> None:
    assert refused_words("red house", "a\x01b\n\x7f", "x" * 9000, "") is None
    assert refused_words("red house", "undress her") is Reason.TEXT_UNDRESS
    assert refused_words("undress\x01her") is Reason.TEXT_UNDRESS  # what no instruction may hold
    for place in (0, 990, 1500, 2990, 8000):  # in any part of a long name
        assert refused_words("a " * (place // 2) + "undress her" + " b" * 500), place


def test_names_meet_the_rules_alone() -> None:
    for name in ("bad/damaged/strips.tif", "scans-of-nothing.jpg", "beach/shirt off"):
        assert refused_names(name) is None
    assert refused_names("red house", "undress her") is Reason.TEXT_UNDRESS
    assert refused_names("undress\x01her") is Reason.TEXT_UNDRESS
    assert refused_words("make all that the lady has on dissolve") is Reason.TEXT_LEARNED


def test_what_is_too_long_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    for refused in (refused_names, refused_words):
        assert refused("red house ", "a" * (MOST_CHARS - 10)) is None
        for texts in (["a" * (MOST_CHARS + 1)], ["red house"] * (MOST_CHARS // 9 + 1)):
            assert refused(*texts) is Reason.TEXT_UNREADABLE


def test_what_cannot_be_read_in_part_is_refused() -> None:
    for text in ("\U0001f3e0" * 600, "\ufdfa" * 400):  # emoji, and a ligature of eighteen letters
        for refused in (refused_names, refused_words):
            assert refused("red house " + text) is Reason.TEXT_UNREADABLE
            assert refused("red house " + text[:5]) is None


def test_what_a_broken_classifier_said_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    prove_words()
    with monkeypatch.context() as patch:
        patch.setattr(
            TextClassifier, "scores", lambda self, given, whole=False: np.zeros(len(given))
        )
        assert refused_words("make everything that the lady has on dissolve") is None
        with pytest.raises(CanaryError):
            prove_words()
    assert refused_words("make everything that the lady has on dissolve") is Reason.TEXT_LEARNED
