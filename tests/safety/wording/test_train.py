"""Training the classifier: what is shown, and that it learns."""

import numpy as np
import pytest

from kontext.safety.wording import train as module
from kontext.safety.wording.classifier import TextClassifier
from kontext.safety.wording.packed import packed
from kontext.safety.wording.phrases import Phrase, written
from kontext.safety.wording.pieces import Cutter
from kontext.safety.wording.train import amid, judged, shown, train

CUTTER = Cutter(packed().pieces)


def test_phrases_are_shown_alone_and_spoiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPOILED", 1.0)
    trained = [Phrase(f"paint fence {n}", n % 2 == 0, "en", "a") for n in range(20)]
    found = shown(trained, CUTTER)
    assert len(found.texts) == len(found.stops) == len(set(found.texts)) > 50
    whole = {tuple(CUTTER.numbers(phrase.text)): phrase.stops for phrase in trained}
    said = dict(zip(found.texts, found.stops, strict=True))
    assert {text: bool(said[text]) for text in whole} == whole


def test_the_last_round_shows_phrases_amid_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AMID", 400)
    stops = [Phrase(f"lift stone {n}", True, "en", "a") for n in range(50)]
    passes = [Phrase("a long walk by the quiet river in May", False, "en", "a")]
    found = amid([*stops, *passes], CUTTER)
    marked = [set(CUTTER.numbers("stone")[1:-1]) <= set(text) for text in found.texts]
    assert marked == found.stops.astype(bool).tolist()  # nothing of the others stops
    longest = max(len(CUTTER.numbers(phrase.text)) for phrase in stops)
    longer = [len(text) > longest + 2 for text, own in zip(found.texts, marked, strict=True) if own]
    assert sum(longer) > 100 and len(found.texts) == len(set(found.texts))


def test_a_training_learns_and_its_weights_are_the_classifiers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (("EPOCHS", 8), ("AMID", 40), ("LOWER", 10), ("WARMUP", 5), ("BATCH", 16)):
        monkeypatch.setattr(module, name, value)
    trained = [phrase for phrase in written() if phrase.language == "nl"][:60]
    weights = train(packed(), shown(trained, CUTTER), amid(trained, CUTTER))
    made = TextClassifier(packed(), {k: v.astype(np.float16) for k, v in weights.items()}, "t@1")
    found = judged(made, trained)
    assert found["stopped"] > 0.8 and found["stopped"] - found["false"] > 0.6
    assert found["attacks_let_pass_first"] < 0.1
