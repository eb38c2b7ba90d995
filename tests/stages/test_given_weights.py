"""The recipes that begin with a FLUX.1 checkpoint, on a tiny random one in its file layout."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kontext.data.encoded.banks import open_bank
from kontext.data.pixels import decode_png
from kontext.edit.weights.exports import export_model
from kontext.edit.weights.folder import load_model_folder
from kontext.models.text.encoders import load_text_encoder
from schemas.recipes import Recipe, load_recipe
from tests.edit.tiny_flux import AE_SHAPE, SHAPE, write_checkpoint
from tests.stages import finished_run
from tests.stages.stage_harness import Harness

_SMALL = (
    "ingest.resolution=64",
    "ingest.sizes=square",
    "autoencoder.crop=0",
    "encode.shard_rows=40",
    "finetune.joint_steps=4",
    "finetune.batch=4",
    "finetune.accumulate=2",
    "finetune.lr=1e-3",
    "finetune.warmup=1",
    "finetune.validate_every=0",
    "finetune.launch.launcher=in-process",
    "evaluate.items_per_category=4",
    "evaluate.teacher_steps=2",
)
_FEW_STEPS = (
    "distill.teacher_edits=8",
    "distill.teacher_steps=2",
    "distill.steps=2",
    "distill.warmup_steps=1",
    "distill.batch=4",
    "distill.taps=[1,3]",
    "distill.validate_every=0",
    "distill.launch.launcher=in-process",
)


def small(name: str, checkpoint: Path, *more: str) -> Recipe:
    return load_recipe(name, (f"weights={checkpoint}", *_SMALL, *more))


def prepared(folder: Path, recipe: Recipe) -> Harness:
    """Data in three splits, encoded with the checkpoint's own networks."""
    harness = Harness(folder, recipe)
    finished_run.make_data(harness, finished_run.SPLIT_NAMES)
    harness.run("train-autoencoder")
    harness.run("encode")
    return harness


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("dev") / "flux")


@pytest.fixture(scope="module")
def adapted(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Harness:
    """`flux1-lora` from encoding to the published model."""
    prompts = 'encode.prompts=["a cat in the snow","make it night"]'
    recipe = small("flux1-lora", checkpoint, "publish.name=tiny-flux", prompts)
    harness = prepared(tmp_path_factory.mktemp("lora"), recipe)
    for stage in ("finetune", "evaluate", "publish"):
        harness.run(stage)
    return harness


def test_texts_are_encoded_by_the_given_encoders(adapted: Harness, checkpoint: Path) -> None:
    texts = open_bank(adapted.inputs["encode"], "texts")
    encoder = load_text_encoder(f"flux:{checkpoint}")
    assert texts.encoder == encoder.digest and texts.texts is not None
    row = len(texts.texts) // 2
    tokens, _, pooled = encoder.encode([texts.texts[row]], 512)
    found = {name: rows[torch.tensor([row])].float() for name, rows in texts.tensors.items()}
    assert found["tokens"].shape == (1, 512, SHAPE.context_in_dim)
    torch.testing.assert_close(found["tokens"], tokens, atol=2e-3, rtol=2e-2)  # bf16 and batches
    torch.testing.assert_close(found["pooled"], pooled, atol=2e-3, rtol=2e-2)
    longest = adapted.inputs["encode"].manifest.metrics["longest_text"]
    assert longest == max(map(encoder.count, texts.texts)) < 512  # padding is read, not counted


def test_the_given_autoencoder_made_the_latents(adapted: Harness) -> None:
    latents = open_bank(adapted.inputs["encode"], "latents").tensors["latents"]
    assert latents[torch.tensor([0])].shape == (1, AE_SHAPE.z_channels, 8, 8)
    assert adapted.inputs["train-autoencoder"].json("config.json")["scale"] == 0.7


def test_own_prompts_are_shown_without_a_picture_and_with_one(adapted: Harness) -> None:
    texts = open_bank(adapted.inputs["encode"], "texts").texts
    assert texts is not None and {"a cat in the snow", "make it night"} <= set(texts)
    sheet = decode_png(adapted.inputs["finetune"].path("prompts.png").read_bytes())
    height, width = sheet.shape[:2]
    assert height > 2 * 64 and width > 3 * 64  # two prompts: drawn alone; a picture and its edit
    assert "finetune-prompts" in adapted.report.images


def test_adapters_are_trained_beside_the_given_transformer(
    adapted: Harness, checkpoint: Path
) -> None:
    made = adapted.inputs["finetune"]
    assert made.json("config.json")["shape"] == SHAPE.model_dump(mode="json")
    assert made.manifest.metrics["lora_rank"] == 16
    assert load_file(made.path("lora.safetensors"))
    ledger = made.json("ledger.json")
    assert ledger["guidance: mode"] == "embedded" and ledger["text: length"] == "512"


def test_what_is_published_reads_its_texts_with_the_given_encoders_and_exports_whole(
    adapted: Harness, checkpoint: Path, tmp_path: Path
) -> None:
    made = adapted.inputs["publish"]
    assert not made.names("teacher/")  # there is no student: the model is the teacher
    model = load_model_folder(made)
    assert model.settings.text_encoder == f"flux:{checkpoint}"
    assert (model.settings.text_length, model.settings.guidance) == (512, 2.5)
    flow = load_file(adapted.inputs["finetune"].path("flow.safetensors"))
    for name, tensor in model.transformer.state_dict().items():
        assert torch.equal(tensor, flow[name]), name
    card = made.path("model/README.md").read_text()
    assert "license: other" in card and "trained from given weights (`flux`)" in card
    assert str(checkpoint.parent) not in card and "teacher/" not in card
    exported = export_model(made, tmp_path / "export", "diffusers")
    assert exported.note.startswith("a whole pipeline")


def test_the_report_of_a_run_without_a_student_is_of_its_model(adapted: Harness) -> None:
    scores = adapted.inputs["evaluate"].json("scores.json")["scores"]
    assert scores["student"] == scores["teacher"] and scores["student"] != scores["identity"]
    assert adapted.inputs["evaluate"].names("report/index.html")


def test_a_guided_model_is_distilled_into_a_student(
    adapted: Harness, checkpoint: Path, tmp_path: Path
) -> None:
    """Its autoencoder's latents are brought to the spread of noise: the gates look at that."""
    shutil.copytree(checkpoint, tmp_path / "flux")
    file = tmp_path / "flux/vae/config.json"
    config = json.loads(file.read_text())
    config["scaling_factor"] /= adapted.inputs["encode"].manifest.metrics["latent_std"]
    file.write_text(json.dumps(config))
    harness = prepared(tmp_path / "run", small("flux1-ladd", tmp_path / "flux", *_FEW_STEPS))
    for stage in ("finetune", "distill", "evaluate", "publish"):
        harness.run(stage)
    assert harness.inputs["finetune"].json("ledger.json")["guidance: mode"] == "embedded"
    student, teacher = (
        load_file(harness.inputs["publish"].path(f"{name}/transformer.safetensors"))
        for name in ("model", "teacher")
    )
    assert any(not torch.equal(student[key], tensor) for key, tensor in teacher.items())


def test_a_model_without_guidance_is_taught_it(tmp_path: Path) -> None:
    plain = write_checkpoint(tmp_path / "schnell", guidance_embed=False)
    changes = ("guidance_distill.steps=2", "guidance_distill.batch=4", "guidance_distill.warmup=1")
    recipe = small("flux1-dev", plain, *(f"finetune.{change}" for change in changes))
    harness = prepared(tmp_path / "run", recipe)
    made = harness.run("finetune")
    assert made.json("config.json")["shape"]["guidance_embed"] is True
    assert "guidance_unlearned" in made.manifest.metrics
    assert {row["category"] for row in made.json("mixture.json")} == {
        "local", "global", "character", "style", "text"
    }  # fmt: skip
