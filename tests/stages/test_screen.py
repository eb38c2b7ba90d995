import hashlib
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from kontext.data.buckets import Buckets
from kontext.data.images import ImageBank
from kontext.data.pixels import encode_png, pixel_id
from kontext.data.quality import clip, health
from kontext.data.quality.kept import learnt_table
from kontext.engine.fingerprint import code_digest, code_of
from kontext.errors import FilterError, RecipeError
from kontext.models.features.clip import load_scorer
from kontext.models.features.efficientnet import load_features
from kontext.models.text.encoders import load_text_encoder
from kontext.safety import screening
from kontext.safety.ids import subject_hmac
from kontext.safety.keys import run_key
from kontext.safety.pdq import pdq_dihedral
from kontext.safety.policy import load_policy
from kontext.safety.wording.classifier import TextClassifier
from kontext.stages import STAGES, screen
from kontext.store.artifacts.artifact_store import Artifact, ArtifactWriter
from schemas.manifest import artifact_digest
from schemas.recipes import Recipe, load_recipe
from schemas.risks import risks
from schemas.sections.data import IngestConfig, ScreenConfig
from schemas.tables import (
    CAPTIONS,
    DECISIONS,
    IMAGE_SCORES,
    IMAGES,
    PAIRS,
    PIXELS,
    pair_scores,
)
from tests.data.pictures import scene
from tests.safety_key import put_key, share_key
from tests.stages.stage_harness import Harness, rows_table

FLAT = np.full((64, 64, 3), 230, np.uint8)  # the hash gate cannot match it
ALMOST = scene(0).copy()
ALMOST[:8, :8] ^= 1  # one level up or down in a corner
PICTURES = [*(scene(n) for n in range(6)), FLAT, ALMOST]
IDS = [pixel_id(picture) for picture in PICTURES]

# name: (contexts, target, instruction, reasons for which it must be dropped)
PAIR_PLAN: dict[str, tuple[list[int], int, str, set[str]]] = {
    "good": ([0], 1, "make it pink", set()),
    "back": ([1], 0, "make it green", set()),
    "two contexts": ([1, 2], 3, "mix them", set()),
    "text-to-image": ([], 4, "a smooth picture", set()),
    "nothing": ([0], 7, "do nothing", {"l1_min", "ssim_max", "changed_frac_min"}),
    "words": ([2], 3, "remove all of her clothes", {"text:text_undress"}),
    "context's words": ([4], 2, "make it grey", {"text:text_undress"}),
    "flat": ([5], 6, "make it grey", set()),
    "no caption": ([3], 4, "", {"caption_malformed"}),
}

CONTEXTS = {"context's words": "remove all of her clothes"}  # captions that say more
TARGETS: dict[str, str] = {}


def pair_key(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def fill_ingest(output: ArtifactWriter) -> None:
    images = []
    for number, picture in enumerate(PICTURES):
        hashes, quality = pdq_dihedral(picture)
        images.append(
            {
                "pixel_id": IDS[number],
                "pdq": hashes[0].tobytes(),
                "pdq_quality": quality,
                "group_key": f"group{number}",
                "concept": f"smooth picture {number}",
            }
        )
    for part, rows in enumerate((slice(0, 5), slice(5, None))):
        pngs = [{"pixel_id": i, "png": encode_png(p)} for i, p in zip(IDS, PICTURES, strict=True)]
        output.add_table(f"images/{part:03d}.parquet", rows_table(IMAGES, images[rows]))
        output.add_table(f"pixels/{part:03d}.parquet", rows_table(PIXELS, pngs[rows]))


def fill_mine(output: ArtifactWriter) -> None:
    rows = [
        {
            "pair_id": pair_key(name),
            "context_ids": [IDS[i] for i in contexts],
            "target_id": IDS[target],
            "relation_class": "local" if contexts else "t2i",
        }
        for name, (contexts, target, _, _) in PAIR_PLAN.items()
    ]
    output.add_table("pairs.parquet", rows_table(PAIRS, rows))


def fill_caption(output: ArtifactWriter) -> None:
    rows = [
        {
            "pair_id": pair_key(name),
            "instruction": instruction,
            "target_caption": TARGETS.get(name, f"picture {target}") if instruction else "",
            "context_caption": CONTEXTS.get(name, f"picture {contexts[0]}") if contexts else "",
            "status": "ok" if instruction else "malformed",
        }
        for name, (contexts, target, instruction, _) in PAIR_PLAN.items()
    ]
    output.add_table("captions.parquet", rows_table(CAPTIONS, rows))


def harness(
    folder: Path, caption: Callable[[ArtifactWriter], None] = fill_caption, **options: object
) -> Harness:
    config = ScreenConfig(clip_steps=3, clip_batch=4, processes=1, **options)  # type: ignore[arg-type]
    used = Harness(folder, Recipe(name="test", screen=config))
    for stage, fill in (("ingest", fill_ingest), ("mine", fill_mine), ("caption", caption)):
        used.make(stage, fill)
    return used


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Harness, Artifact]:
    used = harness(tmp_path_factory.mktemp("screen"))
    return used, used.run("screen")


def reasons(artifact: Artifact) -> dict[str, set[str]]:
    names = {pair_key(name): name for name in PAIR_PLAN}
    rows = artifact.table("accepted.parquet").to_pylist()
    assert all(row["accept"] == (not row["reject_reasons"]) for row in rows)
    return {names[row["pair_id"]]: set(row["reject_reasons"]) for row in rows}


def test_pairs_are_dropped_for_the_planned_reasons_only(made: tuple[Harness, Artifact]) -> None:
    assert reasons(made[1]) == {name: plan[3] for name, plan in PAIR_PLAN.items()}


def test_every_image_is_scored_by_every_classifier(made: tuple[Harness, Artifact]) -> None:
    table = made[1].table("image_scores.parquet")
    assert table.schema.names == IMAGE_SCORES.names
    rows = table.to_pylist()
    for classifier, labels in (("open-nsfw", 1), ("nudenet", 18)):
        mine = [row for row in rows if row["classifier"] == classifier]
        assert sorted(row["pixel_id"] for row in mine) == sorted(IDS * labels)
        assert all(0 <= row["score"] <= 1 for row in mine)


def test_pair_scores_are_the_raw_numbers(made: tuple[Harness, Artifact]) -> None:
    table = made[1].table("pair_scores.parquet")
    named = tuple(load_policy("strict").classifiers)
    assert table.schema == pair_scores(risks(named).values())  # of those that were asked
    rows = {row["pair_id"]: row for row in table.to_pylist()}
    good, back = rows[pair_key("good")], rows[pair_key("back")]
    difference = np.abs(PICTURES[0].astype(float) - PICTURES[1]).mean() / 255
    assert good["l1"] == pytest.approx(difference, abs=1e-6)
    for name in ("ssim", "l1", "changed_frac", "largest_blob", "misalignment", "pdq_distance"):
        assert good[name] == back[name]
    assert good["sharpness"] == -back["sharpness"] != 0
    nothing, flat = rows[pair_key("nothing")], rows[pair_key("flat")]
    lies = ("misalignment", "misalignment_status", "sharpness", "largest_blob")
    assert [nothing[name] for name in lies] == [0, "ok", 0, 0]
    assert [flat[name] for name in lies[:2]] == [None, "flat"]
    assert good["exposure_delta"] == pytest.approx(-back["exposure_delta"])
    single = rows[pair_key("text-to-image")]
    assert (single["ssim"], single["l1"], single["pdq_distance"]) == (0, 1, 256)
    assert (single["clip_i"], single["clip_dir"]) == (1, 0)
    assert [single[name] for name in lies] == [None, "no_context", None, 1]
    assert single["exposure_delta"] >= 0  # drawn from words alone: it rises from nothing
    two, one = rows[pair_key("two contexts")], rows[pair_key("words")]
    assert two["nsfw_max"] >= one["nsfw_max"]  # the same images and one more
    assert [name for name in PAIR_PLAN if rows[pair_key(name)]["unmatchable"]] == ["flat"]


def test_decisions_name_the_drop_and_no_content(made: tuple[Harness, Artifact]) -> None:
    used, artifact = made
    table = artifact.table("decisions.parquet")
    assert table.schema.names == DECISIONS.names
    dropped = [row for row in table.to_pylist() if row["outcome"] == "drop"]
    key = run_key(used.folder / "home")
    subjects = {subject_hmac(pair_key(name), key) for name in ("words", "context's words")}
    assert {(row["check"], row["reason"]) for row in dropped} == {("text_rule", "text_undress")}
    assert {row["subject_hmac"] for row in dropped} == subjects and len(dropped) == 2
    shown = str(table.to_pylist()) + str(used.report.texts) + str(used.report.tables)
    assert "clothes" not in shown and IDS[2] not in shown


def test_the_small_clip_and_policy_are_kept(made: tuple[Harness, Artifact]) -> None:
    _, artifact = made
    assert artifact.json("policy.json")["version"] == "strict-2"
    scorer = load_scorer(artifact, load_features(), load_text_encoder())
    vectors = scorer.image_embeddings(np.stack(PICTURES[:2]))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    metrics = artifact.manifest.metrics
    assert metrics["pairs_screened"] == len(PAIR_PLAN)
    assert metrics["pairs_accepted"] == sum(not plan[3] for plan in PAIR_PLAN.values())
    assert 0 < float(metrics["pass_rate/l1"] or 0) < 1


def test_filters_are_compared_with_the_last_version(
    tmp_path: Path, made: tuple[Harness, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded; a run that drifts ends, unless the recipe accepts it by name, which is noted."""
    did = made[1].json("filters.json")
    assert did["l1"]["drift"] is None and did["l1"]["limited"] and not did["sharpness"]["limited"]
    scores = made[1].table("pair_scores.parquet")["l1"].to_numpy()
    assert did["l1"]["mean"] == pytest.approx(scores.mean(), abs=1e-5)
    assert did["l1"]["rate"] == made[1].manifest.metrics["pass_rate/l1"] == round(8 / 9, 5)
    monkeypatch.setattr(health, "INERT_FROM", 2)  # nine pairs are few
    other = {**did, "l1": {**did["l1"], "mean": did["l1"]["mean"] + 10}}

    def again(name: str, **options: object) -> Artifact:
        used = harness(tmp_path / name, **options)
        used.before = [used.make("screen", lambda writer: writer.add_json("filters.json", other))]
        return used.run("screen")

    with pytest.raises(FilterError, match=r"filter l1 .* errors from screen/hand-made's") as error:
        again("stopped")
    assert error.value.filter == "l1"
    kept = again("kept", may_drift=("l1",))
    assert kept.json("filters.json")["l1"]["drift"] == kept.manifest.metrics["drift/l1"] > 3
    assert kept.manifest.metrics["drift/ssim"] == 0
    assert any("filter l1 has drifted" in note for note in kept.manifest.notes)
    with pytest.raises(RecipeError, match="may_pass_all: there is no filter 'l2'"):
        harness(tmp_path / "unknown", may_pass_all=("l2",)).run("screen")


def test_a_reason_that_takes_most_pairs_is_noted_and_all_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    used = Harness(tmp_path, load_recipe("ci"))
    writer = used.store.writer("screen", "d")
    context = used.context("screen", writer)
    caplog.set_level(logging.INFO)
    lost = pa.chunked_array([["edit_cropped"] * 6 + ["ssim_max"] * 5])
    screen._say_lost(context, lost, 10, 2)
    assert caplog.messages[0] == (
        "2 of 10 pairs accepted; rejected: edit_cropped 6, ssim_max 5"  # a pair may have both
    )
    (note,) = writer.notes
    assert note.startswith("6 of 10 pairs are rejected for edit_cropped: ")
    assert "ingest.sizes" in note and "sizes" in IngestConfig.model_fields
    screen._say_lost(context, pa.chunked_array([[]], pa.string()), 3, 3)
    assert caplog.messages[-1] == "3 of 3 pairs accepted"


def test_a_second_run_gives_the_same_bytes(made: tuple[Harness, Artifact], tmp_path: Path) -> None:
    used = harness(tmp_path)
    share_key(made[0].folder / "home", tmp_path / "home")
    again = used.run("screen")
    first = {file.name: file.sha256 for file in made[1].manifest.files}
    assert {file.name: file.sha256 for file in again.manifest.files} == first


def test_a_failing_classifier_drops_its_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Injected scores: image 1 cannot be scored, image 4 scores high."""

    def fake(classifier: object, images: list[np.ndarray]) -> dict[str, np.ndarray]:
        values = []
        for image in images:
            number = next(i for i, p in enumerate(PICTURES) if np.array_equal(p, image))
            values.append({1: np.nan, 4: 0.9}.get(number, 0.01 * number))
        return {"nsfw": np.array(values, np.float32)}

    monkeypatch.setattr(screening, "score_images", fake)
    used = harness(tmp_path, policy="no-nudenet")
    artifact = used.run("screen")
    found = reasons(artifact)
    for name, (contexts, target, _, _) in PAIR_PLAN.items():
        assert ("nsfw_max" in found[name]) == bool({1, 4} & {*contexts, target}), name
    rows = artifact.table("decisions.parquet").to_pylist()
    outcomes = {row["subject_hmac"]: row["outcome"] for row in rows if row["check"] == "classifier"}
    key = run_key(tmp_path / "home")
    assert outcomes[subject_hmac(IDS[1], key)] == "error"
    assert outcomes[subject_hmac(IDS[4], key)] == "drop"
    assert any("nudity is not scored" in note for note in artifact.manifest.notes)


def test_the_report_draws_no_picture_that_was_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Image 4 has the highest score of all, above the limit; image 3 is next, and let in."""

    def fake(classifier: object, images: list[np.ndarray]) -> dict[str, np.ndarray]:
        scores = {4: 0.9, 1: np.nan, 3: 0.2}
        numbers = [IDS.index(pixel_id(image)) for image in images]
        return {"nsfw": np.array([scores.get(n, 0.01 * n) for n in numbers], np.float32)}

    sheets: list[list[str]] = []

    def drawn(rows: list[list[np.ndarray]], **_: object) -> bytes:
        sheets.append([pixel_id(picture) for row in rows for picture in row])
        return b""

    trained: list[list[str]] = []
    real = clip.train_clip

    def train(data, **options):  # type: ignore[no-untyped-def]
        rows = {row.tobytes(): IDS[n] for n, row in enumerate(features())}
        trained.append([rows[row.numpy().tobytes()] for row in data.images[data.rows.tolist()]])
        return real(data, **options)

    def held(number: int) -> bool:
        return clip.held_out(f"group{number}")

    def features() -> np.ndarray:
        bank = ImageBank(used.inputs["ingest"], Buckets.of(used.recipe.ingest))
        return clip._features(load_features(), bank, bank.ids).numpy()

    monkeypatch.setattr(clip, "train_clip", train)
    monkeypatch.setattr(screening, "score_images", fake)
    monkeypatch.setattr("kontext.stages.screen.contact_sheet", drawn)
    monkeypatch.setattr("kontext.data.quality.sheets.contact_sheet", drawn)
    monkeypatch.setitem(PAIR_PLAN, "likes", ([0], 3, "make it round", set()))
    used = harness(tmp_path, policy="no-nudenet")
    artifact = used.run("screen")
    let_in = {
        IDS[image]
        for name, why in reasons(artifact).items()
        for image in (*PAIR_PLAN[name][0], PAIR_PLAN[name][1])
        if not why
    }
    assert IDS[3] in let_in
    assert IDS[4] not in let_in and IDS[1] not in let_in
    assert sheets and all(set(sheet) <= let_in for sheet in sheets)
    # nor is anything learnt of them, or kept
    assert set(artifact.table("refused.parquet")["pixel_id"].to_pylist()) == {IDS[1], IDS[4]}
    vectors = artifact.table("image_vectors.parquet")["key"].to_pylist()
    assert set(vectors) == set(IDS) - {IDS[1], IDS[4]}
    (learnt,) = trained
    assert learnt == [IDS[n] for n in range(len(IDS)) if n not in (1, 4) and not held(n)]


def test_words_that_the_policy_refuses_are_neither_learnt_nor_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stage caption asks no policy: one with a lower limit finds words that have passed there."""
    name, number, odd = next(
        (name, target, "a very odd picture")
        for name, (_, target, _, why) in PAIR_PLAN.items()
        if not why and not clip.held_out(f"group{target}")
    )
    real = TextClassifier.scores

    def scores(self: TextClassifier, given: list[str], whole: bool = False) -> np.ndarray:
        return np.where([text == odd for text in given], np.float32(0.4), real(self, given))

    monkeypatch.setattr(TextClassifier, "scores", scores)
    monkeypatch.setitem(TARGETS, name, odd)
    strict = load_policy("default").model_dump(mode="json")
    path = tmp_path / "strict.json"
    path.write_text(json.dumps({**strict, "texts": {"limit": 0.3, "limit_joined": 0.3}}))
    before = harness(tmp_path / "before", clip_keep=1.0).run("screen")
    assert odd in before.table("text_vectors.parquet")["key"].to_pylist()
    again = harness(tmp_path / "again", clip_keep=1.0)
    again.before = [before]
    assert again.run("screen").manifest.metrics["clip_new"] == 0
    used = harness(tmp_path / "strict", clip_keep=1.0, policy=str(path))
    used.before = [before]  # whose small CLIP has learnt what is refused now
    made = used.run("screen")
    assert reasons(made)[name] == {"text:text_learned"}
    assert "clip_new" not in made.manifest.metrics
    assert odd not in made.table("text_vectors.parquet")["key"].to_pylist()
    learnt, was = (
        dict(zip(*one.table("learnt.parquet").to_pydict().values(), strict=True))
        for one in (made, before)
    )
    assert learnt.keys() == was.keys() and learnt[IDS[number]] != was[IDS[number]]
    words = sorted({f"picture {number}"} & {*_captions_of(number, but=name)})
    (clean,) = learnt_table(["x"], [[f"smooth picture {number}", *words]])["words"].to_pylist()
    assert learnt[IDS[number]] == clean


def _captions_of(number: int, but: str) -> set[str]:
    """The target captions of an image, but for those of one pair and of those that are refused."""
    return {
        TARGETS.get(name, f"picture {target}")
        for name, (_, target, words, why) in PAIR_PLAN.items()
        if target == number and words and name != but and not any("text" in one for one in why)
    }


def test_a_policy_that_needs_more_than_the_recipe_allows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="nudenet"):
        harness(tmp_path, classifiers=("open-nsfw",)).run("screen")


ROOT = Path(__file__).parents[2]
BLUE = """
from schemas.risks import Risk
RISKS = (Risk("blue", classifier="blue", score="blueness", label="blue", refusal="it is blue"),)
class Blue:
    name, version, labels = "blue", "blue@1", ("blue",)
    def scores(self, images):
        return {"blue": [image[..., 2].mean() / 255 for image in images]}
def load(threads): return Blue()
"""
SCREENED = """
import json, sys
from pathlib import Path
from kontext.store.catalog.views import views
from tests.stages.test_screen import screened

folder = Path(sys.argv[1])
found = [screened(folder / "-".join(names), *names) for names in json.loads(sys.argv[2])]
print(json.dumps([views()[0].sql, *found]))
"""


def screened(folder: Path, *classifiers: str) -> dict[str, Any]:
    """What a screening by these classifiers gives."""
    put_key(folder / "home")
    used = harness(folder, policy="no-nudenet", classifiers=classifiers)
    made, section = used.run("screen"), used.recipe.screen
    code = code_digest(code_of(STAGES["screen"], section))
    return {
        "digest": artifact_digest("screen", code, section.model_dump(mode="json"), {}),
        "files": {file.name: file.sha256 for file in made.manifest.files},
        "metrics": made.manifest.metrics,
        "notes": made.manifest.notes,
        "columns": made.table("pair_scores.parquet").schema.names,
    }


def test_a_screening_follows_the_classifiers_it_names_and_no_others(tmp_path: Path) -> None:
    before = screened(tmp_path / "before", "open-nsfw")
    assert "nudity_max" not in before["columns"] and "nsfw_max" in before["columns"]
    for top in ("kontext", "schemas"):
        shutil.copytree(ROOT / top, tmp_path / top, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "kontext/safety/classifiers/blue.py").write_text(BLUE)
    asked = json.dumps([["open-nsfw"], ["open-nsfw", "blue"]])
    done = subprocess.run(
        [sys.executable, "-c", SCREENED, str(tmp_path / "after"), asked],
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "OMP_NUM_THREADS": "1", "PATH": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rule, unnamed, named = json.loads(done.stdout.splitlines()[-1])
    assert "blue_max" in rule  # the catalog knows every risk
    assert unnamed == before
    assert named["digest"] != before["digest"] and "blue_max" in named["columns"]
    assert named["files"]["pair_scores.parquet"] != before["files"]["pair_scores.parquet"]
    assert named["notes"] != before["notes"]  # that the policy does not weigh it


def test_pairs_without_captions_are_not_compared_with_any(tmp_path: Path) -> None:
    """Given pairs bring an instruction, no captions: no score of words may reject them."""

    def fill(output: ArtifactWriter) -> None:
        rows = [
            {"pair_id": pair_key(name), "instruction": "edit it", "status": "ok"}
            for name in PAIR_PLAN
        ]
        output.add_table("captions.parquet", rows_table(CAPTIONS, rows))

    used = harness(tmp_path, fill)
    scores = used.run("screen").table("pair_scores.parquet").to_pylist()
    contexts = {pair_key(name): plan[0] for name, plan in PAIR_PLAN.items()}
    assert {row["clip_t"] for row in scores} == {None}
    for row in scores:
        assert row["clip_dir"] == (None if contexts[row["pair_id"]] else 0)
    assert not {"clip_t_min", "clip_dir_min"} & set().union(
        *reasons(used.inputs["screen"]).values()
    )
