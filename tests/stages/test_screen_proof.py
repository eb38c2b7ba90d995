"""What does not stop a canary ends the screening, and its run leaves nothing to go on with."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from kontext.data.quality import pair_rule, proof, screen
from kontext.data.quality.known import Known
from kontext.errors import CanaryError
from kontext.safety import screening, texts
from kontext.safety.classifiers import base, load_classifier
from kontext.safety.classifiers.nudenet import NudeNet
from kontext.safety.classifiers.open_nsfw import OpenNsfw
from kontext.safety.policy import load_policy, packaged_policies
from kontext.safety.wording.classifier import TextClassifier
from schemas.tables import IMAGE_SCORES
from tests.safety.classifiers.npm_models import skip_without
from tests.stages.stage_harness import Harness
from tests.stages.test_caption import harness as to_caption
from tests.stages.test_screen import IDS, harness

Break = Callable[[pytest.MonkeyPatch], None]


def stuck(kind: type, value: float) -> Break:
    def scores(self, images):  # type: ignore[no-untyped-def]
        return {label: np.full(len(images), value, np.float32) for label in self.labels}

    return lambda patch: patch.setattr(kind, "scores", scores)


def one_stuck(patch: pytest.MonkeyPatch) -> None:
    """One label of many is never seen."""
    real = NudeNet.scores

    def scores(self, images):  # type: ignore[no-untyped-def]
        return {**real(self, images), "FEMALE_BREAST_EXPOSED": np.zeros(len(images), np.float32)}

    patch.setattr(NudeNet, "scores", scores)


def crashing(patch: pytest.MonkeyPatch) -> None:
    def scores(self, images):  # type: ignore[no-untyped-def]
        raise RuntimeError("no model")

    patch.setattr(NudeNet, "scores", scores)


def no_text_rules(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(texts, "check_text", lambda text: None)


def first_text_only(patch: pytest.MonkeyPatch) -> None:
    real = screen.text_reasons
    patch.setattr(screen, "text_reasons", lambda rows: real([row[:1] for row in rows]))


def no_pair_rule(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pair_rule, "pair_reasons", lambda changes, *_: [None] * len(changes.rise))


def no_limits(patch: pytest.MonkeyPatch) -> None:
    real = proof.acceptance

    def accepted(pairs, captions, scores, thresholds, judgements=None):  # type: ignore[no-untyped-def]
        return real(pairs, captions, scores, {**thresholds, "nudity_max": 1.0}, judgements)

    patch.setattr(proof, "acceptance", accepted)


def texts_stuck(score: float) -> Break:
    def scores(self, given, whole=False):  # type: ignore[no-untyped-def]
        return np.full(len(given), score, np.float32)

    return lambda patch: patch.setattr(TextClassifier, "scores", scores)


def texts_crash(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TextClassifier, "scores", lambda self, given, whole=False: 1 / 0)


BROKEN: dict[str, tuple[Break, str]] = {
    "nudenet at 0": (stuck(NudeNet, 0.0), "nudenet is broken: its score .* is constant"),
    "nudenet at 0.3": (stuck(NudeNet, 0.3), "nudenet is broken: its score .* is constant"),
    "nudenet at NaN": (stuck(NudeNet, np.nan), "nudenet is broken: it gives no score"),
    "nudenet at 7": (stuck(NudeNet, 7.0), "nudenet is broken: it gives no score"),
    "one label at 0": (one_stuck, "its score FEMALE_BREAST_EXPOSED is constant"),
    "nudenet crashes": (crashing, "nudenet is broken: it gives no score"),
    "open-nsfw at 0": (stuck(OpenNsfw, 0.0), "open-nsfw is broken"),
    "text rules": (no_text_rules, "the text rules stopped . of"),
    "text rules on one text": (first_text_only, "the text rules stopped 0 of"),
    "text classifier at 0": (texts_stuck(0.0), "the text classifier stopped 0 of"),
    "text classifier at 1": (texts_stuck(1.0), "the text classifier stops what says nothing"),
    "text classifier at NaN": (texts_stuck(np.nan), "gives no score: no text passes"),
    "text classifier crashes": (texts_crash, "the text classifier broke"),
    "pair rule": (no_pair_rule, "the pair rule is wrong about 12 of 13"),
    "limits": (no_limits, "a canary through: nudity_max is 1"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_stops_nothing_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    broken, said = BROKEN[what]
    broken(monkeypatch)
    used = harness(tmp_path)
    with pytest.raises(CanaryError, match=said):
        used.run("screen")
    assert used.store.manifest("screen", "digest-of-screen") is None
    assert not list(used.objects.list("runs/screen/"))


def only_probes(patch: pytest.MonkeyPatch) -> None:
    """NudeNet is right about the probes, and gives everything else 0."""
    real = NudeNet.scores

    def scores(self, images):  # type: ignore[no-untyped-def]
        found = real(self, images)
        probes = any(image.shape == base._probes()[0].shape for image in images)
        return found if probes else {name: 0 * values for name, values in found.items()}

    patch.setattr(NudeNet, "scores", scores)


def test_a_classifier_that_breaks_after_its_proof_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right about the probes, and one score for all images of the run."""
    monkeypatch.setattr(screening, "ENOUGH", 8)
    only_probes(monkeypatch)
    with pytest.raises(CanaryError, match=r"one and the same score .* for 8 images"):
        harness(tmp_path).run("screen")


def test_a_classifier_that_is_broken_after_some_images_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right about the probes and half of the images, then at 0."""
    real, broken = NudeNet.scores, list[bool]()

    def scores(self, images):  # type: ignore[no-untyped-def]
        found, whole = real(self, images), 0 if broken else len(images)
        if len(images) == len(IDS):
            broken.append(True)
            whole = len(images) // 2
        return {name: np.where(np.arange(len(v)) < whole, v, 0) for name, v in found.items()}

    monkeypatch.setattr(NudeNet, "scores", scores)
    used = harness(tmp_path)
    with pytest.raises(CanaryError, match=r"nudenet is broken: its score .* is constant"):
        used.run("screen")
    assert broken and not list(used.objects.list("runs/screen/"))


def test_scores_of_before_hide_no_classifier_that_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the images were scored by an earlier run; the others get one and the same score."""
    monkeypatch.setattr(screening, "ENOUGH", len(IDS) // 2)
    rows = [
        {
            "pixel_id": one,
            "classifier": name,
            "label": label,
            "score": 0.01 * number,
            "forms": [0.01 * number],
        }
        for number, one in enumerate(IDS[::2])
        for name in ("open-nsfw", "nudenet")
        for label in load_classifier(name).labels
    ]
    known = Known(image_scores=pa.Table.from_pylist(rows, IMAGE_SCORES))
    monkeypatch.setattr("kontext.stages.screen.known_of", lambda *_: known)
    only_probes(monkeypatch)
    with pytest.raises(CanaryError, match=r"one and the same score .* for 4 images"):
        harness(tmp_path).run("screen")


@pytest.mark.parametrize("stage", ["caption", "screen"])
def test_a_text_classifier_that_breaks_after_its_proof_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """Right until the first text of the run has been judged, then at 0."""
    real, broken = TextClassifier.scores, list[bool]()
    proofs = {*texts.CANARIES, *texts._PASSED, *proof._STOPPED, *proof._PASSED}

    def scores(self, given, whole=False):  # type: ignore[no-untyped-def]
        found = real(self, given)
        if broken:
            return 0 * found
        broken.extend([True] * (not proofs.issuperset(given)))
        return found

    monkeypatch.setattr(TextClassifier, "scores", scores)
    used: Harness = {"caption": to_caption, "screen": harness}[stage](tmp_path)
    with pytest.raises(CanaryError, match="the text classifier stopped 0 of"):
        used.run(stage)
    assert broken and not list((used.folder / "scratch" / stage).iterdir())
    assert used.store.manifest(stage, f"digest-of-{stage}") is None


def test_scores_of_a_run() -> None:
    def rows(values: list[float]) -> pa.Table:
        columns = [[f"{n}" for n in range(len(values))], *([name] * len(values) for name in "cl")]
        forms = pa.array([[value] for value in values], pa.list_(pa.float32()))
        return pa.table([*columns, pa.array(values, pa.float32()), forms], schema=IMAGE_SCORES)

    screening.check_scores(rows([0.1] * 31))
    screening.check_scores(rows([0.1] * 31 + [0.2]))
    screening.check_scores(rows([0.1] * 30 + [0.2, float("nan")]))
    for values in ([0.0] * 32, [float("nan")] * 32, [0.1] * 31 + [float("nan")]):
        with pytest.raises(CanaryError, match="classifier c is broken"):
            screening.check_scores(rows(values))


@pytest.mark.parametrize("policy", packaged_policies())
def test_what_works_passes_every_proof(policy: str) -> None:
    proof.prove_rules(load_policy(policy))
    skip_without(load_policy(policy).classifiers)
    for name in load_policy(policy).classifiers:
        base.prove(load_classifier(name))


def test_what_is_no_score_is_none() -> None:
    class Odd:
        name, version, labels = "odd", "odd@1", ("a", "b", "c")

        def scores(self, images):  # type: ignore[no-untyped-def]
            return {"a": [0.5, -1.0, 2.0], "b": np.array([np.nan, np.inf, 1.0])}

    image = np.zeros((8, 8, 3), np.uint8)
    found = base.score_images(Odd(), [image] * 3)
    assert found["a"].tolist()[0] == 0.5 and np.isnan(found["a"][1:]).all()
    assert np.isnan(found["b"][:2]).all() and found["b"][2] == 1 and np.isnan(found["c"]).all()
