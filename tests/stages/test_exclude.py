"""Safety training through its stage: what comes out, how it goes on, and what is refused."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kontext.errors import RecipeError
from kontext.evaluate.exclusion import wordbook
from kontext.evaluate.exclusion.phrasings import LAST, ROUNDS, Pool
from kontext.evaluate.exclusion.record import exclusion_line
from kontext.models.autoencoder.network import Autoencoder
from kontext.models.flux.transformer import FluxTransformer
from kontext.store.artifacts.artifact_store import Artifact, ArtifactWriter
from kontext.train.methods.exclude import ExcludeMethod
from kontext.train.start.teacher import teacher_of
from schemas.sections.exclusion import ExcludeConfig
from tests.stages.encoded_run import broken_at
from tests.stages.finished_run import SPLIT_NAMES, make_data, recipe
from tests.stages.stage_harness import Harness

SETTINGS = {
    "rounds": 3,
    "steps": 3,
    "batch": 6,
    "attacks": 4,
    "subjects": 2,
    "strongest": 2,
    "sample_steps": 1,
    "items": 4,
    "checkpoint_every": 1,
}
FOUND = [["do the style thing", 0.5]]  # what an attack is said to have found before it ended


@pytest.fixture(scope="module", autouse=True)
def few_kinds() -> Iterator[None]:
    """Every one of the pairs asks for something else: encode other words for a few of them only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wordbook, "KINDS", 4)
        yield


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory: pytest.TempPathFactory) -> Harness:
    """A flow of hand-made pairs, in a recipe that excludes a half of the style edits."""
    folder = tmp_path_factory.mktemp("finetuned")
    harness = Harness(folder, recipe())
    concept = {"name": "look", "relation": "style-0"}
    section = ExcludeConfig.model_validate({**SETTINGS, "concepts": [concept]})
    harness.recipe = harness.recipe.model_copy(update={"exclude": section})
    make_data(harness, SPLIT_NAMES)
    torch.manual_seed(0)
    codec = Autoencoder(harness.recipe.autoencoder.shape, 0.5, 0.1)
    flow = FluxTransformer(harness.recipe.finetune.shape)

    def weights(writer: ArtifactWriter, name: str, model: torch.nn.Module, config: object) -> None:
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / name)
        writer.add_file(name, folder / name)
        writer.add_json("config.json", config)

    name = "autoencoder.safetensors"
    harness.make("train-autoencoder", lambda w: weights(w, name, codec, codec.config()))
    harness.run("encode")
    shape = {"shape": flow.shape.model_dump(mode="json")}
    harness.make("finetune", lambda w: weights(w, "flow.safetensors", flow, shape))
    return harness


def attacked(finetuned: Harness, folder: Path) -> Harness:
    """A copy, with what the attack before round 1 found in the stage's scratch folder."""
    shutil.copytree(finetuned.folder, folder)
    harness = Harness(folder, finetuned.recipe)
    made = finetuned.inputs.values()
    harness.inputs = {
        a.manifest.stage: harness.store.open(a.manifest.stage, a.digest) for a in made
    }
    scratch = folder / "scratch" / "exclude"
    scratch.mkdir(parents=True)
    (scratch / "attack-1.json").write_text(json.dumps(FOUND))
    return harness


@pytest.fixture(scope="module")
def made(finetuned: Harness, tmp_path_factory: pytest.TempPathFactory) -> tuple[Harness, Artifact]:
    harness = attacked(finetuned, tmp_path_factory.mktemp("exclude") / "run")
    return harness, harness.run("exclude")


def test_the_artifact_is_a_teacher_with_its_record(made: tuple[Harness, Artifact]) -> None:
    harness, artifact = made
    before = load_file(harness.inputs["finetune"].path("flow.safetensors"))
    after = load_file(artifact.path("flow.safetensors"))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert artifact.json("config.json") == harness.inputs["finetune"].json("config.json")
    assert artifact.json("ledger.json")["text: length"]
    assert "samples.png" in artifact.names()
    assert teacher_of(harness.inputs) is artifact  # for all that is made of a teacher
    finetuned = {"finetune": harness.inputs["finetune"]}
    assert teacher_of(finetuned) is finetuned["finetune"]


def test_the_record_has_rounds_attacks_and_costs(made: tuple[Harness, Artifact]) -> None:
    found = made[1].json("exclusion.json")
    assert found["concepts"] == ["look"] and found["subjects"] == 2
    # the attack before round 2 finds nothing: an untrained flow makes no edit
    assert [len(one["added"]) for one in found["rounds"]] == [0, 1]
    assert found["rounds"][1]["added"] == [{"text": "do the style thing", "success": 0.5}]
    assert len(found["texts"]) == 2 and found["tried"] == 4
    for rates in ("own_before", "own_after", "attacked_before", "attacked_after"):
        assert set(found[rates]) == {"success", "right", "unchanged"}
    whole = {row["category"]: row for row in found["others"] if not row["asked"]}
    assert set(whole) == {"local", "global", "character", "style", "text"}
    assert whole["style"]["edits"] == 2  # the other half of the style edits
    metrics = made[1].manifest.metrics
    assert metrics["training_kept"] == found["training_kept"] == 0.2  # it is enough, as above
    assert metrics["rounds"] == 2 and metrics["phrasings_added"] == 1
    assert {"excluded_before", "excluded_after", "excluded_fall", "largest_cost"} <= set(metrics)
    assert made[1].table("round-0.parquet").num_rows == 3
    line = made[0].report.texts["exclude-summary"]
    assert "no round has seen" in line and exclusion_line(made[0].inputs) == line
    assert exclusion_line({}) == ""


def test_a_run_that_died_in_a_round_goes_on_to_the_same_weights(
    finetuned: Harness,
    made: tuple[Harness, Artifact],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    harness = attacked(finetuned, tmp_path / "run")
    broken_at(monkeypatch, ExcludeMethod, 2, harness, "exclude")
    again = harness.run("exclude")
    for name in ("flow.safetensors", "exclusion.json", "round-1.parquet"):
        assert again.manifest.file(name).sha256 == made[1].manifest.file(name).sha256, name


@pytest.mark.parametrize(
    ("concept", "told"),
    [
        ({"relation": "hat"}, "no training edit is of relation 'hat'; there are character-0"),
        ({"relation": "style-0", "values": ["angry"]}, "is edited to 'angry'"),
        ({"pattern": "remove .* hat"}, "no training instruction matches 'remove .* hat'"),
        ({"pattern": "."}, "none is kept"),
    ],
)
def test_a_concept_that_the_data_does_not_have_is_refused(
    made: tuple[Harness, Artifact], concept: dict[str, object], told: str
) -> None:
    harness = made[0]
    own = harness.recipe
    section = ExcludeConfig.model_validate({**SETTINGS, "concepts": [{"name": "x", **concept}]})
    harness.recipe = own.model_copy(update={"exclude": section})
    try:
        with pytest.raises(RecipeError, match=told):
            harness.run("exclude")
    finally:
        harness.recipe = own


@pytest.mark.parametrize(
    ("concept", "told"),
    [
        ({"name": "x"}, "needs a relation or a pattern"),
        ({"name": "x", "pattern": "("}, "no regular expression"),
        ({"name": "x", "pattern": "hat", "values": ["a"]}, "not of which relation"),
    ],
)
def test_a_concept_says_how_it_is_found(concept: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ExcludeConfig.model_validate({"concepts": [concept]})


@pytest.mark.parametrize("mixes", [[0.5, 0.2], [0.2, 0.2], [0.0, 0.5], [0.5, 1.0]])
def test_mixes_rise_between_nothing_and_all(mixes: list[float]) -> None:
    with pytest.raises(ValueError, match="not rising shares between 0 and 1"):
        ExcludeConfig.model_validate({"mixes": mixes})


def test_the_last_attack_has_frames_of_its_own() -> None:
    def frames(pool: Pool) -> set[str]:
        return {*pool.words, *pool.instructions}

    assert not frames(ROUNDS) & frames(LAST)
