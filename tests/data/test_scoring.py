"""What the policy refuses by its score is never kept; scores are injected at the classifiers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from kontext.data import scoring
from kontext.data.forms import Crops
from kontext.data.scoring import Scorer, image_scores, own_scores, scored_by
from kontext.engine.run import Engine
from kontext.errors import CanaryError, GateError
from kontext.safety import screening
from kontext.safety.classifiers.base import ImageClassifier, Pixels, Scores
from kontext.safety.ids import Outcome
from kontext.safety.own_work import vouch
from kontext.safety.policy import Policy, load_policy
from kontext.stages import STAGES
from kontext.store.artifacts.artifact_store import Artifact
from schemas.recipes import Recipe, load_recipe
from schemas.sections.data import IngestConfig, ScreenConfig
from tests.data.pictures import scene, scene_png
from tests.safety.traces import Traces
from tests.safety_key import put_key
from tests.stages.stage_harness import Harness

STRICT = load_policy("strict")
BAD = 3  # the scene that classifiers are made to find something in
SOURCE = {"kind": "folder", "license_spdx": "CC0-1.0"}


def says(monkeypatch: pytest.MonkeyPatch, score: float, label: str = "nsfw", of: int = BAD) -> None:
    """Every classifier gives 0, and `score` to one label of one scene."""
    wanted = scene(of)

    def fake(classifier: ImageClassifier, images: Sequence[Pixels]) -> Scores:
        found = {one: np.zeros(len(images), np.float32) for one in classifier.labels}
        for number, image in enumerate(images):
            if label in found and np.array_equal(image, wanted):
                found[label][number] = score
        return found

    monkeypatch.setattr(scoring, "score_images", fake)


def harness(folder: Path, policy: str = "strict") -> Harness:
    (folder / "pictures").mkdir(parents=True)
    for number in range(6):
        name = "a secret name" if number == BAD else f"picture {number}"
        (folder / f"pictures/{name}.png").write_bytes(scene_png(number))
    config = IngestConfig(sources=({**SOURCE, "path": str(folder / "pictures")},), processes=1)  # type: ignore[arg-type]
    recipe = Recipe(name="test", ingest=config, screen=ScreenConfig(policy=policy))
    return Harness(folder, recipe)


def left(made: Harness) -> dict[str, set[str]]:
    return Traces(scene_png(BAD), "a secret name").left(made.folder / "home", made.folder / "store")


def test_a_picture_that_is_refused_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(monkeypatch, 0.9)
    made = harness(tmp_path)
    artifact = made.run("ingest")
    assert artifact.table("images").num_rows == 5
    assert left(made) == {}
    (reject,) = [r for r in artifact.table("rejects.parquet").to_pylist() if r["reason"] == "nsfw"]
    assert not reject["source_ref"] and not reject["detail"] and reject["subject_hmac"]
    (row,) = [r for r in artifact.table("decisions.parquet").to_pylist() if r["reason"] == "nsfw"]
    assert (row["check"], row["outcome"], row["subject_hmac"]) == (
        "classifier", "drop", reject["subject_hmac"],
    )  # fmt: skip
    assert row["policy_version"] == STRICT.id
    assert row["threshold"] == pytest.approx(STRICT.limit("nsfw_max", False))
    assert row["score"] == pytest.approx(0.9)


def test_what_could_not_be_scored_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(monkeypatch, float("nan"))
    made = harness(tmp_path)
    artifact = made.run("ingest")
    reasons = [row["reason"] for row in artifact.table("rejects.parquet").to_pylist()]
    assert "classifier_error" in reasons and left(made) == {}
    rows = artifact.table("decisions.parquet").to_pylist()
    assert [r["outcome"] for r in rows if r["reason"] == "classifier_error"] == ["error"]


def test_quarantine_keeps_it_for_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, 0.9)
    policy = load_policy("research")
    assert policy.action("nsfw") == "quarantine"
    assert harness(tmp_path, "research").run("ingest").table("images").num_rows == 6


def test_a_policy_may_stop_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, 0.9)
    policy = STRICT.model_copy(update={"actions": {"nsfw": "stop_run"}})
    with pytest.raises(GateError, match="stops the run"):
        Scorer(policy)([scene(BAD)], False)


@pytest.mark.parametrize("where", [0, 1])
def test_the_worst_form_counts(monkeypatch: pytest.MonkeyPatch, where: int) -> None:
    says(monkeypatch, 0.9)
    forms = [scene(0), scene(1)]
    assert Scorer(STRICT)(forms, False).refusal is None
    forms[where] = scene(BAD)
    scored = Scorer(STRICT)(forms, False)
    assert scored.refusal is not None and scored.refusal[2] == "nsfw"
    assert len(scored.values) == 2 * len(scoring.labels(STRICT))


def test_plain_pictures_are_under_the_stricter_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [STRICT.limit("nsfw_max", plain) for plain in (True, False)]
    says(monkeypatch, sum(limits) / 2)
    assert limits[0] < limits[1]
    assert Scorer(STRICT)([scene(BAD)], False).refusal is None
    assert Scorer(STRICT)([scene(BAD)], True).refusal is not None


def test_combinations_count(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = load_policy("research")
    (rule, *_) = policy.combinations
    above = {name: limit + 0.01 for name, limit in rule.above.items()}
    found = {label: np.zeros(1, np.float32) for _, label in scoring.labels(policy)}
    for name, score in above.items():
        label = next(one for one, weight in policy.risks[name].items() if weight == 1)
        found[label][0] = score
    monkeypatch.setattr(scoring, "score_images", lambda one, _: {n: found[n] for n in one.labels})
    refusal = Scorer(policy)([scene(0)], False).refusal
    assert refusal is not None and refusal[1:3] == (Outcome.DROP, f"combination_{rule.name}")


def test_a_classifier_that_breaks_ends_the_run_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, asked = harness(tmp_path), []

    def proved(classifier: ImageClassifier) -> None:
        asked.append(classifier.name)
        if len(asked) > len(STRICT.classifiers):  # after the pictures
            raise CanaryError(f"classifier {classifier.name} is broken")

    monkeypatch.setattr(scoring, "prove", proved)
    with pytest.raises(CanaryError, match="is broken"):
        made.run("ingest")
    for number in range(6):
        assert Traces(scene_png(number)).left(tmp_path / "home", tmp_path / "store") == {}


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Harness, Artifact]:
    """Pictures of two shapes, of which one is cropped, by the real classifiers."""
    made = harness(tmp_path_factory.mktemp("scored"))
    for number in (10, 11):
        (made.folder / f"pictures/wide {number}.png").write_bytes(_wide(number))
    return made, made.run("ingest")


def _wide(number: int) -> bytes:
    from kontext.data.pixels import encode_png

    return encode_png(np.ascontiguousarray(scene(number, 160)[:80]))


def test_screen_gets_the_scores_that_it_would_make(scored: tuple[Harness, Artifact]) -> None:
    made, artifact = scored
    crops = Crops.of(made.recipe.ingest)
    chunks = screening.plan_scores(
        [artifact.stored(name) for name in artifact.names("pixels/")],
        STRICT.classifiers,
        crops=crops,
    )
    fresh = pa.concat_tables([screening.score_chunk(chunk)["scores"] for chunk in chunks])
    kept = image_scores(artifact, scored_by(STRICT, crops))
    keys = [(name, "ascending") for name in ("pixel_id", "classifier", "label")]
    fresh, kept = fresh.sort_by(keys), kept.sort_by(keys)
    assert kept.schema == fresh.schema and len(kept) == 8 * 19
    for name in ("pixel_id", "classifier", "label"):
        assert kept[name].equals(fresh[name])
    both = zip(kept["forms"].to_pylist(), fresh["forms"].to_pylist(), strict=True)
    assert {len(one) for one, _ in both} == {1, 2}
    flat = [np.concatenate(one["forms"].to_pylist()) for one in (kept, fresh)]
    assert np.allclose(*flat, atol=1e-5)  # batches of other sizes round differently
    assert np.allclose(kept["score"], fresh["score"], atol=1e-5)


def test_scores_of_another_home_are_not_believed(scored: tuple[Harness, Artifact]) -> None:
    made, artifact = scored
    by = scored_by(STRICT, Crops.of(made.recipe.ingest))
    assert not len(own_scores(artifact, by, made.objects, made.home))
    vouch(made.objects, made.home, artifact.manifest)
    assert own_scores(artifact, by, made.objects, made.home).equals(image_scores(artifact, by))
    assert not len(own_scores(artifact, by, made.objects, put_key(made.folder / "other").parent))


def test_scores_of_others_are_none(scored: tuple[Harness, Artifact]) -> None:
    made, artifact = scored
    crops = Crops.of(made.recipe.ingest)
    assert not len(image_scores(artifact, scored_by(load_policy("no-nudenet"), crops)))
    other = Crops.of(made.recipe.ingest.model_copy(update={"sizes": ((64, 32),)}))
    assert not len(image_scores(artifact, scored_by(STRICT, other)))


def changed(policy: Policy, **fields: Any) -> str:
    return policy.model_copy(update=fields).of_images


def test_what_a_policy_says_of_images_is_part_of_ingest_and_the_rest_is_not(
    tmp_path: Path,
) -> None:
    text = (Path(scoring.__file__).parents[1] / "safety/policies/strict.yaml").read_text()
    path, config = tmp_path / "own.yaml", IngestConfig(sources=())
    own = config.model_copy(update={"policy": str(path)})
    path.write_text(text)
    before = scoring.fingerprint(own, tmp_path)
    path.write_text(text.replace("undress_rise_max: 0.1", "undress_rise_max: 0.05"))
    assert scoring.fingerprint(own, tmp_path) == before
    path.write_text(text.replace("limit: 0.3", "limit: 0.25"))
    assert scoring.fingerprint(own, tmp_path) != before
    limits = {**STRICT.thresholds, "nsfw_max": 0.4}
    assert changed(STRICT, thresholds=limits) != STRICT.of_images
    assert changed(STRICT, actions={"nsfw": "quarantine"}) != STRICT.of_images


def test_a_tighter_policy_and_a_new_list_are_in_the_digests_of_a_run(tmp_path: Path) -> None:
    text = (Path(scoring.__file__).parents[1] / "safety/policies/strict.yaml").read_text()
    path, home = tmp_path / "own.yaml", put_key(tmp_path / "home").parent
    path.write_text(text)
    recipe = load_recipe("ci", (f"screen.policy={path}",))

    def digests() -> dict[str, str]:
        return Engine(recipe, f"file://{home}/store", "", home, stages=STAGES).digests()

    before = digests()
    assert digests() == before
    path.write_text(text.replace("undress_rise_max: 0.1", "undress_rise_max: 0.05"))
    pairs = digests()
    assert pairs["ingest"] == before["ingest"] and pairs["screen"] != before["screen"]
    path.write_text(text.replace("limit: 0.3", "limit: 0.25"))
    assert digests()["ingest"] != before["ingest"]
    path.write_text(text)
    (home / "hash-lists").mkdir()
    (home / "hash-lists/own.csv").write_text("# version: 1\n# date: 2026-11-01\n")
    assert digests()["ingest"] != before["ingest"]


def test_a_recipes_ingest_asks_the_policy_of_its_screening() -> None:
    recipe = Recipe.model_validate({"name": "a", "screen": {"policy": "research"}})
    assert recipe.ingest.policy == "research"
    said = recipe.model_dump(mode="json")
    said["screen"]["policy"] = "strict"
    assert Recipe.model_validate(said).ingest.policy == "strict"
    said["ingest"]["policy"] = "research"  # nothing is kept that the screening would refuse
    assert Recipe.model_validate(said).ingest.policy == "strict"
