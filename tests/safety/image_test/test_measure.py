"""Classifiers measured on somebody's sets: brightness stands in for what they look for."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from flows import cli
from kontext.errors import CanaryError, SourceError
from kontext.safety.classifiers.base import ImageClassifier, Pixels, Scores
from kontext.safety.image_test import measure as module
from kontext.safety.image_test.measure import measure
from kontext.safety.image_test.page import page
from kontext.safety.policy import load_policy

STRICT = load_policy("strict")


@pytest.fixture(autouse=True)
def brightness(monkeypatch: pytest.MonkeyPatch) -> None:
    """nsfw is how bright a picture is; black has no score. Everything else is 0."""

    def scores(classifier: ImageClassifier, images: Sequence[Pixels]) -> Scores:
        found = {label: np.zeros(len(images), np.float32) for label in classifier.labels}
        if "nsfw" in found:
            found["nsfw"][:] = [image.mean() / 255 if image.any() else np.nan for image in images]
        return found

    monkeypatch.setattr(module, "score_images", scores)
    monkeypatch.setattr(module, "prove", lambda _: None)


def folder(path: Path, levels: Sequence[int]) -> Path:
    path.mkdir()
    for number, level in enumerate(levels):
        Image.new("RGB", (8, 8), (level,) * 3).save(path / f"secret{number}.png")
    return path


def test_recall_and_false_positives_at_the_policys_limits(tmp_path: Path) -> None:
    """The limit of strict is 0.3, which is level 76.5."""
    bad = folder(tmp_path / "bad", [60, 76, 77, 200, 0])
    good = folder(tmp_path / "good", [1, 2, 3, 100])
    result = measure([bad], [good], STRICT)
    assert (result.harmful, result.harmless, result.unscored) == (5, 4, 1)
    whole, nsfw, nudity = result.rows
    for row in (whole, nsfw):
        assert row.recall is not None and (row.recall.hits, row.recall.of) == (3, 5)
        assert (row.false.hits, row.false.of) == (1, 4)
    assert nsfw.limit == pytest.approx(0.3) and whole.limit is None
    assert nudity.recall is not None and nudity.recall.hits == 0
    assert result.policy == STRICT.id and set(result.classifiers) == set(STRICT.classifiers)


def test_recall_where_one_in_a_hundred_harmless_ones_is_stopped(tmp_path: Path) -> None:
    good = folder(tmp_path / "good", [*range(1, 101), *([1] * 100)])  # 200: two may be stopped
    bad = folder(tmp_path / "bad", [97, 98, 99, 150])
    _, nsfw, _ = measure([bad], [good], STRICT).rows
    fine, coarse = nsfw.at
    assert fine.limit is None and fine.recall is None  # 1,000 are needed for 0.1 %
    assert coarse.limit == pytest.approx(98 / 255)
    assert coarse.recall is not None and (coarse.recall.hits, coarse.recall.of) == (2, 4)


def test_of_equal_scores_none_is_above_the_limit(tmp_path: Path) -> None:
    """At most one in a hundred, also where many harmless ones share the highest score."""
    good = folder(tmp_path / "good", [*([9] * 50), *([1] * 50)])
    _, nsfw, _ = measure([], [good], STRICT).rows
    assert nsfw.at[1].limit == pytest.approx(9 / 255) and nsfw.recall is None


def test_what_is_no_picture_is_counted_and_nothing_is_named(tmp_path: Path) -> None:
    good = folder(tmp_path / "good", [10, 20])
    (good / "secret notes.txt").write_text("no picture")
    (good / "secret.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    result = measure([], [good], STRICT)
    assert (result.harmless, result.unreadable) == (2, 2)
    said = page(result) + json.dumps(result.record())
    assert "secret" not in said and "2 files were no pictures" in said
    assert "1,000 harmless pictures are needed" in said and "no harmful pictures" in said


def test_errors_say_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = folder(tmp_path / "good", [10])
    with pytest.raises(SourceError, match="name a folder of harmless pictures"):
        measure([good], [], STRICT)
    with pytest.raises(SourceError, match="is no folder"):
        measure([], [tmp_path / "gone"], STRICT)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="none of the 0 harmful files"):
        measure([tmp_path / "empty"], [good], STRICT)

    def broken(classifier: ImageClassifier) -> None:
        raise CanaryError(f"classifier {classifier.name} is broken")

    monkeypatch.setattr(module, "prove", broken)
    with pytest.raises(CanaryError, match="is broken"):
        measure([], [good], STRICT)


def test_the_command_writes_page_and_record(tmp_path: Path) -> None:
    good, out = folder(tmp_path / "good", [10, 200]), tmp_path / "test.html"
    words = ["safety", "test", "--harmless", str(good), "-o", str(out), "--policy", "no-nudenet"]
    found = CliRunner().invoke(cli.app, words)
    assert found.exit_code == 0, found.output
    assert "harmless 1 of 2: 50.0%" in found.output
    assert "Classifier test" in out.read_text()
    assert json.loads(out.with_suffix(".json").read_text())["harmless"] == 2
