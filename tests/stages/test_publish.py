from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from flows import cli
from kontext.data.pixels import encode_png
from kontext.edit.edit_file import load_edit_model
from kontext.errors import WorseError
from kontext.evaluate.models import TrainedModels
from kontext.evaluate.versions import Versions
from kontext.store.artifacts.artifact_store import Artifact, ArtifactWriter
from schemas.sections.evaluation import PublishConfig
from tests.stages.finished_run import SIDE, evaluated_run
from tests.stages.stage_harness import Harness


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Harness, Artifact]:
    harness = evaluated_run().copied(tmp_path_factory.mktemp("run"))
    return harness, harness.run("publish")


def test_the_editor_loads_and_edits_with_what_was_published(
    published: tuple[Harness, Artifact],
) -> None:
    editor = load_edit_model(published[1], published[0].folder)
    assert editor.settings.name == "tiny" and editor.settings.steps == 4
    image = np.full((SIDE, SIDE, 3), 90, np.uint8)
    assert editor.edit([image], "make it red").shape == (SIDE, SIDE, 3)
    assert editor.digest == published[1].manifest.metrics["model_digest"]


def test_teacher_weights_lie_beside_the_student(published: tuple[Harness, Artifact]) -> None:
    names = set(published[1].names())
    assert {"teacher/transformer.safetensors", "teacher/config.json"} <= names
    files = {file.name: file.sha256 for file in published[1].manifest.files}
    assert files["teacher/autoencoder.safetensors"] == files["model/autoencoder.safetensors"]
    assert files["teacher/transformer.safetensors"] != files["model/transformer.safetensors"]
    assert published[1].json("teacher/config.json")["settings"]["steps"] == 2


def test_model_card_carries_the_measured_numbers(published: tuple[Harness, Artifact]) -> None:
    harness, artifact = published
    card = artifact.path("model/README.md").read_text()
    scores = harness.inputs["evaluate"].json("scores.json")
    for goal in scores["goals"]:
        line = next(row for row in card.splitlines() if row.startswith(f"| {goal['title']} |"))
        assert ("| reached |" in line) == goal["reached"]
        assert f"| {goal['n']} |" in line
        if goal["unit"] == "dB":
            assert f"{goal['value']:.2f} dB" in line
    assert "not compared: no published model of this name has an evaluation here" in card
    assert "Goals not reached" in card and "autoencoder PSNR" in card
    latency = harness.inputs["evaluate"].json("latency.json")
    assert f"{latency['student_ms']:.0f} ms" in card


def test_model_card_names_licences_that_matter(published: tuple[Harness, Artifact]) -> None:
    card = published[1].path("model/README.md").read_text()
    assert "CC-BY-SA-4.0" in card and "share-alike" in card
    assert "AGPL-3.0" in card and "No external hash list" in card
    assert "3 benign canaries" in card  # of the artifact: its recipe wanted 5


def test_dataset_card_counts_what_the_shards_hold(published: tuple[Harness, Artifact]) -> None:
    card = published[1].path("dataset_card.md").read_text()
    assert "72 directed pairs" in card
    assert "| local | 6 | 0 | 6 |" in card and "| t2i | 6 | 0 | 6 |" in card
    assert "| CC-BY-SA-4.0 | 48 |" in card and "| MIT | 24 |" in card


def test_lineage_names_every_known_artifact(published: tuple[Harness, Artifact]) -> None:
    harness, artifact = published
    rows = {row["stage"]: row for row in artifact.json("lineage.json")["artifacts"]}
    assert rows["evaluate"]["digest"] == harness.inputs["evaluate"].digest
    assert rows["shard"]["files"]["splits.parquet"]
    diagram = artifact.path("lineage.mmd").read_text()
    assert diagram.startswith("flowchart LR\n") and 'train_autoencoder["' in diagram


def test_same_inputs_give_the_same_weights_files(
    published: tuple[Harness, Artifact], tmp_path: Path
) -> None:
    harness = published[0]
    first = {f.name: f.sha256 for f in published[1].manifest.files}
    harness.folder = tmp_path
    writer_digest = harness.run("publish")
    again = {f.name: f.sha256 for f in writer_digest.manifest.files}
    assert again == first


@pytest.fixture
def fallen(published: tuple[Harness, Artifact], tmp_path: Path) -> Harness:
    """A run whose evaluation found the model worse than the tagged one."""
    harness = published[0].elsewhere(tmp_path)
    known = harness.inputs["evaluate"]
    fell = {"line": "worse (-20.0 points)", "fell": ["student/local"]}
    harness.make("evaluate", partial(fill, known, fell))
    return harness


def fill(known: Artifact, versions: Mapping[str, object] | None, writer: ArtifactWriter) -> None:
    """An evaluation like another, that says this of the published model."""
    for name in ("scores.json", "latency.json"):
        writer.add_json(name, known.json(name))
    if versions is not None:
        writer.add_json("versions.json", versions)


def test_a_model_that_is_worse_than_the_tagged_one_is_refused(fallen: Harness) -> None:
    with pytest.raises(
        WorseError, match=r"would get worse: worse \(-20.0 points\); publish it all"
    ):
        fallen.run("publish")


def test_unless_the_recipe_says_so_which_is_recorded(fallen: Harness) -> None:
    forced = PublishConfig(name="tiny", worse=True)
    fallen.recipe = fallen.recipe.model_copy(update={"publish": forced})
    manifest = fallen.run("publish").manifest
    assert manifest.config == {"name": "tiny", "worse": True}
    assert any("although worse: worse (-20.0" in note for note in manifest.notes)
    card = fallen.store.open("publish", manifest.digest).path("model/README.md").read_text()
    assert "worse (-20.0 points); published all the same" in card


def test_an_earlier_evaluation_is_published_with_a_note(
    published: tuple[Harness, Artifact], tmp_path: Path
) -> None:
    harness = published[0].elsewhere(tmp_path)
    harness.make("evaluate", partial(fill, harness.inputs["evaluate"], None))
    assert any("of an earlier version" in note for note in harness.run("publish").manifest.notes)


def test_what_was_not_compared_is_published_with_a_note(
    published: tuple[Harness, Artifact], tmp_path: Path
) -> None:
    assert not any("beside" in note for note in published[1].manifest.notes)  # the first one
    harness = published[0].elsewhere(tmp_path)
    found = Versions(why="no item is in both evaluations").as_dict()
    harness.make("evaluate", partial(fill, harness.inputs["evaluate"], found))
    notes = harness.run("publish").manifest.notes
    assert "beside the published model: not compared: no item is in both evaluations" in notes


@pytest.mark.parametrize("who", ["model", "teacher"])
def test_an_item_of_the_bench_is_edited_as_kontext_edit_does_it(
    who: str,
    published: tuple[Harness, Artifact],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same file, instruction and seed give the same bytes."""
    monkeypatch.setenv("KONTEXT_HOME", str(tmp_path / "home"))
    harness, artifact = published
    image = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    image = image.repeat(SIDE // 8, 0).repeat(SIDE // 8, 1)
    (tmp_path / "photo.png").write_bytes(encode_png(image))
    weights = tmp_path / who
    weights.mkdir()
    for name in ("config.json", "transformer.safetensors", "autoencoder.safetensors"):
        (weights / name).symlink_to(artifact.path(f"{who}/{name}"))
    made = CliRunner().invoke(
        cli.app,
        [
            *("edit", str(tmp_path / "photo.png"), "make it red"),
            *("-o", str(tmp_path / "out.png"), "--weights", str(weights)),
            *("--seed", str(harness.recipe.evaluate.seed)),
        ],
    )
    assert made.exit_code == 0, made.output
    ctx = harness.context("evaluate", harness.store.writer("evaluate", "models"))
    models = TrainedModels.load(ctx, harness.recipe.evaluate)
    editor = models.student if who == "model" else models.teacher
    noise = "0" * 64  # an id whose noise is the one that the CLI takes
    scored = models.edit(editor, [[image]], ["make it red"], [noise])
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png")), scored[0])
    assert not np.array_equal(scored[0], image)
