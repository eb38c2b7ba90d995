"""The recipes that begin with FLUX.1 weights, from a folder of pairs to a pipeline of diffusers.

A tiny random checkpoint in the published file layout stands for the weights, and pictures of a few
pixels for a megapixel's. The recipes share a home, and each makes what none before it has made:
`flux1-lora` on a Prefect server, `flux1` on two ranks.
"""

import json
import logging
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxKontextPipeline
from PIL import Image, ImageDraw
from prefect import get_client
from prefect.flow_engine import run_flow
from safetensors.torch import load_file

from flows import children, pipeline
from kontext.data.encoded.banks import open_bank
from kontext.data.pixels import decode_png
from kontext.edit.edit_model import EditModel
from kontext.edit.euler import noise
from kontext.edit.weights.exports import export_model
from kontext.edit.weights.folder import LoadedModel, load_model_folder
from kontext.engine.graph import of_recipe
from kontext.engine.run import Engine
from kontext.engine.stage import Reporter
from kontext.models.flux.sequence import pack
from kontext.models.text.encoders import load_text_encoder
from kontext.stages import STAGES
from schemas.recipes import load_recipe
from tasks.workspace import open_engine, places
from tests.edit.tiny_flux import AE_SHAPE, SHAPE, networks, write_checkpoint
from tests.flows.local_worker import local_worker

SIDES = ((96, 96), (120, 72), (72, 120), (144, 72))  # pixels, of the pictures in the folder
PAIRS = 32
PROMPTS = ("a cat in the snow", "make it night")
SMALL = (
    "ingest.resolution=64",  # its 17 sizes have the area of 64 x 64
    "ingest.processes=1",
    "mine.t2i_singles=0",  # so that all recipes have the same data
    'screen.classifiers=["open-nsfw"]',
    "screen.policy=no-nudenet",
    "screen.processes=1",
    "screen.clip_steps=2",
    "shard.dataset=own",
    "shard.test_fraction=0.2",
    "shard.val_fraction=0.2",
    f"encode.prompts={json.dumps(PROMPTS)}",
    "finetune.joint_steps=2",
    "finetune.batch=4",
    "finetune.accumulate=1",
    "finetune.lr=1e-3",
    "finetune.warmup=1",
    "finetune.validate_every=0",
    "evaluate.items_per_category=4",
    "evaluate.teacher_steps=2",
)
TWO_RANKS = ("finetune.launch.ranks=2",)
STUDENT = (
    "distill.teacher_edits=8",
    "distill.teacher_steps=2",
    "distill.steps=2",
    "distill.warmup_steps=1",
    "distill.batch=4",
    "distill.taps=[1,3]",
    "distill.validate_every=0",
    "distill.launch.launcher=in-process",
)
GUIDED = tuple(
    f"finetune.guidance_distill.{change}" for change in ("steps=2", "batch=4", "warmup=1")
)
HERE = ("finetune.launch.launcher=in-process",)


@pytest.fixture(scope="module", autouse=True)
def home(timed_briefly: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of all runs of this file."""
    folder = tmp_path_factory.mktemp("flux1-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KONTEXT_HOME", str(folder))
        for name in ("KONTEXT_STORE", "KONTEXT_CATALOG", "PREFECT_API_URL"):
            patch.delenv(name, raising=False)
        yield folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as fine-tuners keep it: `control/`, `target/`, a text beside each target."""
    folder, draw = tmp_path_factory.mktemp("flux1") / "pairs", random.Random(4)
    for part in ("control", "target"):
        (folder / part).mkdir(parents=True)
    for number in range(PAIRS):
        before, after = draw.sample(("red", "green", "blue", "orange", "purple", "gold"), 2)
        for part, picture in zip(
            ("control", "target"), drawn(draw, SIDES[number % 4], (before, after)), strict=True
        ):
            picture.save(folder / part / f"{number}.png")
        (folder / f"target/{number}.txt").write_text(f"make the {before} box {after}")
    return folder


def drawn(
    draw: random.Random, side: tuple[int, int], colours: tuple[str, ...]
) -> list[Image.Image]:
    """One scene of lines and a box, the box in each of the colours."""
    (width, height), large = side, min(side) * 3 // 5
    left, top = draw.randint(0, width - large), draw.randint(0, height - large)
    ground = tuple(draw.randint(120, 255) for _ in range(3))
    ends = [
        (draw.randint(0, width), draw.randint(0, height), draw.randint(0, width), height)
        for _ in range(draw.randint(4, 9))
    ]
    made = []
    for colour in colours:
        picture = Image.new("RGB", side, ground)
        pen = ImageDraw.Draw(picture)
        for line in ends:
            pen.line(line, fill="black", width=3)
        pen.rectangle((left, top, left + large, top + large), fill=colour, outline="white")
        made.append(picture)
    return made


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, pairs: Path) -> Path:
    """As [dev]'s."""
    return unit_spread(write_checkpoint(tmp_path_factory.mktemp("dev") / "flux"), pairs)


@pytest.fixture(scope="module")
def schnell(tmp_path_factory: pytest.TempPathFactory, pairs: Path) -> Path:
    """As [schnell]'s: without guidance."""
    folder = tmp_path_factory.mktemp("schnell") / "flux"
    return unit_spread(write_checkpoint(folder, guidance_embed=False), pairs)


def unit_spread(checkpoint: Path, pairs: Path) -> Path:
    """Give an autoencoder the scale and shift that published ones have: latents as wide as noise.

    LADD's gates look at that: a random model's edits are mostly noise.
    """
    codec = networks()[1]
    with torch.no_grad():
        found = [codec.encode(_pixels(path)).flatten() for path in sorted(pairs.glob("*/*.png"))]
    latents = torch.cat(found) / codec.scale + codec.shift
    file = checkpoint / "vae/config.json"
    config = json.loads(file.read_text())
    config |= {"scaling_factor": 1 / float(latents.std()), "shift_factor": float(latents.mean())}
    file.write_text(json.dumps(config))
    return checkpoint


def _pixels(path: Path) -> torch.Tensor:
    rgb = torch.from_numpy(np.array(Image.open(path).resize((64, 64))))
    return rgb.permute(2, 0, 1)[None].float() / 127.5 - 1


def changes(pairs: Path, weights: Path, *more: str) -> tuple[str, ...]:
    sources = json.dumps([{"kind": "pairs", "path": str(pairs)}])
    return (f"ingest.sources={sources}", f"weights={weights}", *SMALL, *more)


def finished(name: str, changed: tuple[str, ...]) -> Engine:
    """The engine of a recipe whose stages have all run, in this process."""
    engine = open_engine(load_recipe(name, changed), places())
    for stage in of_recipe(STAGES, engine.recipe):
        engine.run_stage(stage, Reporter(logging.getLogger("kontext")))
    return engine


@pytest.fixture(scope="module")
def lora(prefect_server: None, pairs: Path, checkpoint: Path) -> Engine:
    """`flux1-lora`, every stage by its deployment of a Prefect server."""
    changed = changes(pairs, checkpoint)
    options = {"recipe": "flux1-lora", "overrides": list(changed)}
    with (
        pytest.MonkeyPatch.context() as patch,
        get_client(sync_client=True) as client,
        local_worker(),
    ):
        patch.setattr(pipeline, "POLL_SECONDS", 0.1)
        patch.setattr(children, "CRASH_SETTLES_SECONDS", 0.1)
        found = client.read_deployment_by_name("pipeline/pipeline")
        run = client.create_flow_run_from_deployment(found.id, parameters={"options": options})
        run_flow(pipeline.pipeline, flow_run=client.read_flow_run(run.id), return_type="state")
        state = client.read_flow_run(run.id).state
    assert state is not None and state.is_completed(), state
    return open_engine(load_recipe("flux1-lora", changed), places())


@pytest.fixture(scope="module")
def whole(pairs: Path, checkpoint: Path) -> Engine:
    """`flux1`, trained by torchrun as the recipe says, on two ranks."""
    return finished("flux1", changes(pairs, checkpoint, *TWO_RANKS))


@pytest.fixture(scope="module")
def ladd(pairs: Path, checkpoint: Path) -> Engine:
    """`flux1-ladd`: the flow of `flux1`, and a student."""
    return finished("flux1-ladd", changes(pairs, checkpoint, *TWO_RANKS, *STUDENT))


@pytest.fixture(scope="module")
def guided(pairs: Path, schnell: Path) -> Engine:
    """`flux1-dev`: edits alone, then guidance distillation."""
    return finished("flux1-dev", changes(pairs, schnell, *GUIDED, *HERE))


@pytest.mark.prefect
def test_flux1_lora_goes_from_the_folder_to_diffusers_on_a_server(
    lora: Engine, tmp_path: Path
) -> None:
    assert {status.state for status in lora.status()} == {"done"}
    assert lora.artifact("encode").manifest.metrics["sizes"] == len(SIDES)
    same_in_diffusers(lora, tmp_path)


def test_flux1_goes_from_the_folder_to_diffusers_on_two_ranks(
    whole: Engine, tmp_path: Path
) -> None:
    flow = load_file(whole.artifact("finetune").path("flow.safetensors"))
    start = networks()[0].state_dict()
    assert all(not torch.equal(flow[name], start[name]) for name in start if "mlp" in name)
    same_in_diffusers(whole, tmp_path)


def test_flux1_ladd_makes_a_student_of_the_flow_of_flux1(
    ladd: Engine, whole: Engine, tmp_path: Path
) -> None:
    assert ladd.digests()["finetune"] == whole.digests()["finetune"]
    student, teacher = (
        load_file(ladd.artifact("publish").path(f"{name}/transformer.safetensors"))
        for name in ("model", "teacher")
    )
    assert any(not torch.equal(student[key], tensor) for key, tensor in teacher.items())
    gates = ladd.artifact("distill").json("gates.json")
    assert all(row["passed"] is not False for row in gates)
    same_in_diffusers(ladd, tmp_path)


def test_flux1_dev_teaches_a_model_guidance(guided: Engine, tmp_path: Path) -> None:
    made = guided.artifact("finetune")
    assert made.json("config.json")["shape"]["guidance_embed"] is True
    assert "guidance_unlearned" in made.manifest.metrics
    same_in_diffusers(guided, tmp_path)


def same_in_diffusers(engine: Engine, folder: Path) -> None:
    """What is published, exported and loaded by diffusers gives the edit that our editor gives."""
    made = engine.artifact("publish")
    exported = export_model(made, folder / "export", "diffusers")
    assert exported.note.startswith("a whole pipeline")
    model = load_model_folder(made)
    control = Image.open(next(iter(Path(engine.recipe.ingest.sources[0].path).glob("control/*"))))
    picture = np.asarray(control.resize((64, 64)))
    ours, theirs = our_edit(model, picture), their_edit(model, picture, folder / "export")
    assert np.abs(ours - theirs).max() <= 2 and ours.std() > 5


def our_edit(model: LoadedModel, picture: np.ndarray) -> np.ndarray:
    editor = EditModel(model, load_text_encoder(model.settings.text_encoder), autocast=False)
    return editor.edit([picture], PROMPTS[1], seed=0).astype(np.int16)


def their_edit(model: LoadedModel, picture: np.ndarray, folder: Path) -> np.ndarray:
    pipe, own = FluxKontextPipeline.from_pretrained(folder), model.settings
    pipe.set_progress_bar_config(disable=True)
    made = pipe(
        image=Image.fromarray(picture),
        prompt=PROMPTS[1],
        height=64,
        width=64,
        max_area=64 * 64,
        _auto_resize=False,
        num_inference_steps=own.steps,
        guidance_scale=own.guidance,
        max_sequence_length=own.text_length,
        latents=pack(noise(0, [0], (AE_SHAPE.z_channels, 8, 8))),
        output_type="np",
    ).images[0]
    return np.asarray(np.round(made * 255), np.int16)


@pytest.mark.prefect
def test_texts_are_encoded_by_the_given_encoders(
    lora: Engine, checkpoint: Path, pairs: Path
) -> None:
    encoded = lora.artifact("encode")
    texts = open_bank(encoded, "texts")
    encoder = load_text_encoder(f"flux:{checkpoint}")
    assert texts.encoder == encoder.digest and texts.texts is not None
    assert set(PROMPTS) <= set(texts.texts)
    own = {path.read_text() for path in pairs.glob("target/*.txt")}
    given = set(texts.texts) - {"", *PROMPTS}
    assert given and given <= own  # byte for byte, and nobody's templates
    row = len(texts.texts) // 2
    tokens, _, pooled = encoder.encode([texts.texts[row]], 512)
    found = {name: rows[torch.tensor([row])].float() for name, rows in texts.tensors.items()}
    assert found["tokens"].shape == (1, 512, SHAPE.context_in_dim)
    torch.testing.assert_close(found["tokens"], tokens, atol=2e-3, rtol=2e-2)  # bf16 and batches
    torch.testing.assert_close(found["pooled"], pooled, atol=2e-3, rtol=2e-2)
    longest = encoded.manifest.metrics["longest_text"]
    assert longest == max(map(encoder.count, texts.texts)) < 512  # padding is read, not counted


@pytest.mark.prefect
def test_the_given_autoencoder_made_the_latents(lora: Engine, checkpoint: Path) -> None:
    latents = open_bank(lora.artifact("encode"), "latents").tensors["latents"]
    assert latents[torch.tensor([0])].shape[1] == AE_SHAPE.z_channels
    given = json.loads((checkpoint / "vae/config.json").read_text())
    config = lora.artifact("train-autoencoder").json("config.json")
    assert (config["scale"], config["shift"]) == (given["scaling_factor"], given["shift_factor"])


@pytest.mark.prefect
def test_adapters_are_trained_beside_the_given_transformer(lora: Engine) -> None:
    made = lora.artifact("finetune")
    assert made.json("config.json")["shape"] == SHAPE.model_dump(mode="json")
    assert made.manifest.metrics["lora_rank"] == 16
    assert load_file(made.path("lora.safetensors"))
    ledger = made.json("ledger.json")
    assert ledger["guidance: mode"] == "embedded" and ledger["text: length"] == "512"
    sheet = decode_png(made.path("prompts.png").read_bytes())
    height, width = sheet.shape[:2]
    assert height > 2 * 64 and width > 3 * 64  # two prompts: drawn alone; a picture and its edit


@pytest.mark.prefect
def test_what_is_published_is_what_was_trained_and_its_card_says_from_what(
    lora: Engine, checkpoint: Path
) -> None:
    made = lora.artifact("publish")
    assert not made.names("teacher/")  # there is no student: the model is the teacher
    model = load_model_folder(made)
    assert model.settings.text_encoder == f"flux:{checkpoint}"
    assert (model.settings.text_length, model.settings.guidance) == (512, 2.5)
    flow = load_file(lora.artifact("finetune").path("flow.safetensors"))
    for name, tensor in model.transformer.state_dict().items():
        assert torch.equal(tensor, flow[name]), name
    card = made.path("model/README.md").read_text()
    assert "license: other" in card and "trained from given weights (`flux`)" in card
    assert str(checkpoint.parent) not in card and "teacher/" not in card


@pytest.mark.prefect
def test_the_report_of_a_run_without_a_student_is_of_its_model(lora: Engine) -> None:
    scores = lora.artifact("evaluate").json("scores.json")["scores"]
    assert scores["student"] == scores["teacher"] and scores["student"] != scores["identity"]
    assert lora.artifact("evaluate").names("report/index.html")
