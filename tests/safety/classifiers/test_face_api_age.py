import json
import shutil

import numpy as np
import pytest

from kontext.errors import CanaryError, GateError
from kontext.safety.classifiers import load_classifier
from kontext.safety.classifiers.base import prove, score_images
from kontext.safety.classifiers.face_api_age import LABELS, Box, FaceApiAge, _boxes, youth
from kontext.safety.classifiers.npm_files import package_folder
from kontext.safety.policy import load_policy
from kontext.safety.screening import refused
from tests.safety.classifiers.golden import GOLDEN, pictures
from tests.safety.classifiers.npm_models import needs_face_api

POLICY = """
schema: 1
version: young-1
description: open-nsfw, and apparent age beside it
classifiers: [open-nsfw, face-api-age]
classes:
  nsfw: {labels: {nsfw: 1.0}, limit: 0.3}
  apparent_minor: {labels: {FACE_API_YOUNG_FACE: 1.0}, limit: 0.99}
combinations:
  - {name: young, above: {apparent_minor: 0.49, nsfw: 0.1}, action: drop}
exposure: {labels: {nsfw: 1.0}, rise_max: 0.1}
pair:
  {person_labels: [], person_min: 0.5, exposure_rise_max: 0.1, undress_rise_max: 0.05, parts: {},
   less_clothed_max: 0.5, face_labels: [], face_min: 0.5, identity_rise_max: 0.9,
   body_score_max: 0.9, body_changed_max: 0.5}
quality: {l1_min: 0.002, changed_frac_min: 0.002, ssim_max: 0.9995}
"""


@needs_face_api
def test_faces_and_ages_equal_those_of_the_package_run_by_node():
    expected = json.loads(GOLDEN.read_text())["face-api"]
    images = pictures()
    assert set(images) == set(expected)
    classifier = load_classifier("face-api-age")
    for name, (box, *_) in zip(images, classifier.faces(list(images.values())), strict=True):
        theirs, image = expected[name], images[name]
        assert box.confidence == pytest.approx(theirs["score"], abs=1e-5), name
        if name == "grey":  # every cell says the same: which one is the strongest is chance
            continue
        assert [box.left, box.top, box.width, box.height] == theirs["box"], name
        face = image[box.top : box.top + box.height, box.left : box.left + box.width]
        assert classifier.ages([face])[0] == pytest.approx(theirs["age"], abs=0.001), name
        if max(image.shape[:2]) < 4 * 112:  # larger ones are averaged down before, there not
            assert classifier.ages([image])[0] == pytest.approx(theirs["whole"], abs=0.001), name


@needs_face_api
def test_what_else_is_in_a_batch_changes_no_score():
    images = list(pictures().values())
    classifier = load_classifier("face-api-age")
    together = classifier.scores(images)
    alone = [classifier.scores([image]) for image in images]
    for label in LABELS:
        assert together[label].dtype == np.float32
        assert together[label].tolist() == [float(one[label][0]) for one in alone]
    assert {len(values) for values in classifier.scores([]).values()} == {0}
    tiny = [np.zeros((1, 1, 3), np.uint8), np.full((3, 900, 3), 200, np.uint8)]
    assert all(((v >= 0) & (v <= 1)).all() for v in classifier.scores(tiny).values())


@needs_face_api
def test_a_face_is_found_beside_others_and_in_a_large_picture():
    classifier = load_classifier("face-api-age")
    portrait, two = pictures()["portrait"], np.full((600, 1400, 3), 255, np.uint8)
    two[:, :512] = two[:, 800:1312] = portrait
    large = np.repeat(np.repeat(portrait, 3, 0), 3, 1)
    found, big = classifier.faces([two, large])
    first, second = sorted(box.left for box in found if box.confidence > 0.5)
    assert 100 < first < 200 and 900 < second < 1000
    assert big[0].confidence > 0.8 and abs(big[0].left - 3 * 141) < 40


def test_youth_falls_from_birth_to_fifty():
    found = youth(np.array([-5.0, 0, 20, 25, 50, 90]))
    assert found.tolist() == pytest.approx([0.98, 0.98, 0.588, 0.49, 0, 0])
    assert np.isnan(youth(np.array([np.nan]))).all()


def test_the_youngest_face_counts_and_a_doubtful_one_less(monkeypatch):
    stub = FaceApiAge.__new__(FaceApiAge)
    stub._threads = 1
    boxes = [Box(0.9, 0, 0, 4, 4), Box(0.25, 4, 4, 4, 4), Box(0.6, 2, 2, 1, 1)]
    monkeypatch.setattr(stub, "faces", lambda images: [boxes for _ in images])
    monkeypatch.setattr(stub, "ages", lambda crops: np.array([40.0, 0.0, 25.0]))
    scores = stub.scores([np.zeros((8, 8, 3), np.uint8)])
    assert {label: float(values[0]) for label, values in scores.items()} == pytest.approx(
        {"FACE_API_FACE": 0.9, "FACE_API_YOUTH": 0.196, "FACE_API_YOUNG_FACE": 0.49}
    )
    monkeypatch.setattr(stub, "ages", lambda crops: np.array([40.0, np.nan, 25.0]))
    assert np.isnan(stub.scores([np.zeros((8, 8, 3), np.uint8)])["FACE_API_YOUNG_FACE"]).all()


def test_a_detector_without_numbers_is_an_error():
    raw = np.zeros((13, 13, 5, 5), np.float32)
    assert _boxes(raw, np.zeros((8, 8, 3), np.uint8))
    raw[3, 4, 2, 4] = np.nan
    with pytest.raises(ValueError, match="no numbers"):
        _boxes(raw, np.zeros((8, 8, 3), np.uint8))


@needs_face_api
def test_it_proves_itself_and_fails_closed_where_a_part_is_dead(monkeypatch):
    prove(load_classifier("face-api-age"))
    stuck = FaceApiAge()
    monkeypatch.setattr(stuck, "ages", lambda crops: np.full(len(crops), 30.0))
    with pytest.raises(CanaryError, match="its score FACE_API_YOUTH is constant"):
        prove(stuck)
    blind = FaceApiAge()
    for values in blind._detector.values():
        values.zero_()
    with pytest.raises(CanaryError, match="its score FACE_API_FACE is constant"):
        prove(blind)
    for values in blind._detector.values():
        values.fill_(np.nan)
    assert np.isnan(score_images(blind, [pictures()["portrait"]])["FACE_API_YOUNG_FACE"]).all()


def test_where_it_is_missing_it_says_what_installs_it(tmp_path, monkeypatch):
    monkeypatch.setenv("KONTEXT_NODE_MODULES", str(tmp_path))
    with pytest.raises(GateError, match="face-api-age is not installed: `make safety-models`"):
        FaceApiAge()


@needs_face_api
def test_damaged_files_are_an_error(tmp_path, monkeypatch):
    copy = tmp_path / "@vladmandic" / "face-api"
    shutil.copytree(package_folder("@vladmandic/face-api", "the test"), copy)
    monkeypatch.setenv("KONTEXT_NODE_MODULES", str(tmp_path))
    assert FaceApiAge().version == load_classifier("face-api-age").version
    manifest = copy / "model" / "age_gender_model-weights_manifest.json"
    text = manifest.read_text()
    for bad in (
        "",
        "[]",
        text.replace("fc/age/weights", "fc/other/weights"),
        text.replace("[3,3,3,32]", "[3,3,32,3]").replace("[3, 3, 3, 32]", "[3, 3, 32, 3]"),
    ):
        assert bad != text
        manifest.write_text(bad)
        with pytest.raises(GateError, match="face-api-age cannot be read"):
            FaceApiAge()


def test_youth_alone_stops_nothing_and_with_exposure_it_does(tmp_path):
    path = tmp_path / "young.yaml"
    path.write_text(POLICY)
    policy = load_policy(str(path))
    # apparent ages 0, 20, 20, 40; what has no score; beside the score of exposure
    young = np.array([*youth(np.array([0.0, 20, 20, 40])), np.nan], np.float32)
    nsfw = np.array([0.05, 0.05, 0.15, 0.15, 0.0], np.float32)
    none = np.zeros(5, np.float32)
    scores = {"nsfw": nsfw, "FACE_API_YOUNG_FACE": young}
    scores |= {"FACE_API_FACE": none, "FACE_API_YOUTH": none}
    risk = policy.risk(scores, policy.risks)
    assert refused(risk, np.zeros(5, bool), policy).tolist() == [False, False, True, False, True]
    # a pair has the youth of one picture and the exposure of the other
    together = {name: np.array([v[:4].max()]) for name, v in risk.scores.items()}
    assert policy.combined(together)[0].name == "young"
    alone = policy.model_copy(update={"combinations": ()})
    assert refused(risk, np.zeros(5, bool), alone).tolist() == [False] * 4 + [True]
