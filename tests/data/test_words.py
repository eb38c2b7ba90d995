from kontext.data.words import refused_names, refused_words
from kontext.safety.ids import Reason


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
