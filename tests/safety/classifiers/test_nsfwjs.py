import json
import shutil

import numpy as np
import pytest

from kontext.errors import CanaryError, GateError, RecipeError
from kontext.safety import classifiers
from kontext.safety.classifiers import load_classifier, nsfwjs
from kontext.safety.classifiers.base import prove, score_images
from kontext.safety.classifiers.npm_files import package_folder
from kontext.safety.classifiers.nsfwjs import LABELS, NsfwJs
from kontext.safety.policy import load_policy
from tests.safety.classifiers.golden import GOLDEN, pictures
from tests.safety.classifiers.npm_models import needs_nsfwjs

POLICY = """
schema: 1
version: drawn-1
description: open-nsfw, and nsfwjs for drawings
classifiers: [open-nsfw, nsfwjs]
classes:
  nsfw: {labels: {nsfw: 1.0}, limit: 0.3}
  explicit: {labels: {NSFWJS_PORN: 1.0, NSFWJS_HENTAI: 1.0, NSFWJS_SEXY: 0.5}, limit: 0.5}
exposure: {labels: {nsfw: 1.0}, rise_max: 0.1}
pair:
  {person_labels: [], person_min: 0.5, exposure_rise_max: 0.1, undress_rise_max: 0.05, parts: {},
   less_clothed_max: 0.5, face_labels: [], face_min: 0.5, identity_rise_max: 0.9,
   body_score_max: 0.9, body_changed_max: 0.5}
quality: {l1_min: 0.002, changed_frac_min: 0.002, ssim_max: 0.9995}
"""


@needs_nsfwjs
def test_scores_equal_those_of_the_package_run_by_node():
    expected = json.loads(GOLDEN.read_text())["nsfwjs"]
    images = pictures()
    assert set(images) == set(expected) and len(images) > 4  # more than one batch
    scores = load_classifier("nsfwjs").scores(list(images.values()))
    for index, name in enumerate(images):
        found = [float(scores[label][index]) for label in LABELS]
        assert found == pytest.approx(expected[name], abs=2e-5), name


@needs_nsfwjs
def test_what_else_is_in_a_batch_changes_no_score():
    images = list(pictures().values())
    classifier = load_classifier("nsfwjs")
    together = classifier.scores(images)
    alone = [classifier.scores([image]) for image in images]
    for label in LABELS:
        assert together[label].dtype == np.float32
        assert together[label].tolist() == [float(one[label][0]) for one in alone]
    assert {len(values) for values in classifier.scores([]).values()} == {0}
    tiny = classifier.scores([np.zeros((1, 1, 3), np.uint8), np.zeros((3, 900, 3), np.uint8)])
    assert all(((values >= 0) & (values <= 1)).all() for values in tiny.values())


@needs_nsfwjs
def test_it_proves_itself_and_fails_closed_where_its_weights_are_dead(monkeypatch):
    prove(load_classifier("nsfwjs"))
    dead = NsfwJs()
    monkeypatch.setattr(dead, "_graph", lambda batch: batch.new_full((len(batch), 5), 0.2))
    with pytest.raises(CanaryError, match="nsfwjs is broken: its score NSFWJS_DRAWING is constant"):
        prove(dead)
    monkeypatch.setattr(dead, "_graph", lambda batch: batch.new_full((len(batch), 5), np.nan))
    with pytest.raises(CanaryError, match="gives no score"):
        prove(dead)
    assert np.isnan(score_images(dead, [pictures()["grey"]])["NSFWJS_PORN"]).all()


def test_where_it_is_missing_it_says_what_installs_it(tmp_path, monkeypatch):
    monkeypatch.setenv("KONTEXT_NODE_MODULES", str(tmp_path))
    with pytest.raises(GateError, match="nsfwjs is not installed: `make safety-models`"):
        NsfwJs()


@needs_nsfwjs
def test_damaged_files_are_an_error(tmp_path, monkeypatch):
    copy = tmp_path / "nsfwjs"
    shutil.copytree(package_folder("nsfwjs", "the test"), copy)
    monkeypatch.setenv("KONTEXT_NODE_MODULES", str(tmp_path))
    whole = NsfwJs().version
    topology, shard = (copy / name for name in nsfwjs._FILES)
    text, data = topology.read_text(), shard.read_text()
    shard.write_text(data.replace('exports="', 'exports="AAAA', 1))
    with pytest.raises(GateError, match=r"cannot be read .* behind the last weight"):
        NsfwJs()
    shard.write_text("module.exports = 1")
    with pytest.raises(GateError, match="cannot be read"):
        NsfwJs()
    shard.write_text(data)
    for bad in ("", text.replace('class_name:"ReLU"', 'class_name:"Lambda"', 1)):
        topology.write_text(bad)
        with pytest.raises(GateError, match="cannot be read"):
            NsfwJs()
    topology.write_text(text + " ")  # harmless, but another file
    assert NsfwJs().version != whole


def test_a_policy_names_it_and_its_labels(tmp_path):
    path = tmp_path / "drawn.yaml"
    path.write_text(POLICY)
    policy = load_policy(str(path))
    scores = {label: np.array([0.0], np.float32) for label in ("nsfw", *LABELS)}
    assert policy.risk(scores).scores["explicit"].tolist() == [0]
    scores["NSFWJS_HENTAI"] = np.array([0.75], np.float32)
    assert policy.risk(scores).scores["explicit"].tolist() == [0.75]
    del scores["NSFWJS_PORN"]  # what nobody has given passes no limit
    assert np.isnan(policy.risk(scores).scores["explicit"]).all()
    path.write_text(POLICY.replace("  explicit:", "  #"))
    with pytest.raises(RecipeError, match="it names nsfwjs, but not its explicit"):
        load_policy(str(path))


def test_it_is_found_by_its_file():
    assert "nsfwjs" in classifiers.plugins(classifiers.__name__, "load")
