import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kontext.errors import GateError, RecipeError, WeightsError
from kontext.models.autoencoder.network import Autoencoder, load_autoencoder
from kontext.models.files.convert import autoencoder_config, rules_for, to_diffusers
from kontext.train.methods.autoencoder import AutoencoderMethod
from schemas.sections.models import AutoencoderShape
from schemas.sections.training import AutoencoderConfig
from schemas.sections.weights import WeightsConfig
from tests.stages import finished_run
from tests.stages.encoded_run import broken_at
from tests.stages.stage_harness import Harness


def dataset(folder: Path, splits: tuple[str, ...]) -> Harness:
    """Shards whose pairs go to `splits` in turn."""
    base = finished_run.recipe()
    config = AutoencoderConfig(
        shape=base.autoencoder.shape, steps=3, batch=4, perceptual_start=1, disc_start=2
    )
    harness = Harness(folder, base.model_copy(update={"autoencoder": config}))
    images, rows = finished_run._pairs(finished_run.SPLIT_NAMES)
    for number, row in enumerate(rows):
        row["split"] = splits[number % len(splits)]
    harness.make("shard", lambda w: finished_run._shard(w, rows, images, folder))
    return harness


def test_weights_carry_the_statistics_that_were_measured(tmp_path: Path) -> None:
    harness = dataset(tmp_path, finished_run.SPLIT_NAMES)
    artifact = harness.run("train-autoencoder")
    config, health = artifact.json("config.json"), artifact.json("health.json")
    assert (config["scale"], config["shift"]) == (health["latent_scale"], health["latent_shift"])
    assert config["scale"] not in (0.3611, 1.0) and health["psnr_held_out"] > 3
    losses = artifact.table("history.parquet")["perceptual"].to_pylist()
    assert [value is not None for value in losses] == [False, True, True]
    images, _ = finished_run._pairs(finished_run.SPLIT_NAMES)
    pixels = torch.stack([torch.from_numpy(image) for image in images.values()])
    model = load_autoencoder(artifact, torch.device("cpu"))
    with torch.no_grad():
        latents = model.encode(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1)
    assert latents.std() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("missing", finished_run.SPLIT_NAMES)
def test_a_split_without_images_stops_before_training(tmp_path: Path, missing: str) -> None:
    left = tuple(name for name in finished_run.SPLIT_NAMES if name != missing)
    with pytest.raises(GateError, match=rf"a split has no images \(.*{missing} 0"):
        dataset(tmp_path, left).run("train-autoencoder")


def test_every_number_has_a_card_and_latents_their_health(tmp_path: Path) -> None:
    harness = dataset(tmp_path, finished_run.SPLIT_NAMES)
    artifact = harness.run("train-autoencoder")
    cards = {card["name"]: card for card in artifact.json("cards.json")}
    health, metrics = artifact.json("health.json"), artifact.manifest.metrics
    assert set(cards) == {"psnr", "ssim", "lpips", "rfid"}
    for name, card in cards.items():
        assert card["value"] == pytest.approx(health[f"{name}_held_out"]) and card["images"] > 0
        assert metrics[f"{name}_held_out"] == pytest.approx(card["value"])
    assert cards["rfid"]["backbone"].startswith("EfficientNet-Lite0 (")
    assert sum(health["spectrum"]) == pytest.approx(1, abs=1e-3)
    assert len(health["channel_std"]) == 16 and 0 <= health["most_correlated"] <= 1
    assert harness.report.tables["autoencoder-metrics"] == list(cards.values())
    assert "rFID" in harness.report.texts["autoencoder-summary"]


def given(harness: Harness, said: str, **changes: object) -> Harness:
    """The harness with a recipe that gives an autoencoder."""
    recipe = harness.recipe
    section = recipe.autoencoder.model_copy(update=changes)
    update = {"autoencoder": section, "weights": WeightsConfig(autoencoder=said)}
    harness.recipe = recipe.model_copy(update=update)
    return harness


def test_a_decoder_is_trained_further_behind_the_same_latents(tmp_path: Path) -> None:
    harness = dataset(tmp_path, finished_run.SPLIT_NAMES)
    first = harness.run("train-autoencoder")
    writer = harness.store.writer("train-autoencoder", "a" * 16)
    for name in ("config.json", "autoencoder.safetensors"):
        writer.add_file(name, first.path(name))
    harness._commit("train-autoencoder", writer)
    for trained in ("decoder", "nothing"):
        given(harness, f"train-autoencoder/{'a' * 16}", given=trained)
        harness.objects.delete(f"runs/train-autoencoder/{first.digest}/manifest.json")
        shutil.rmtree(
            harness.folder / "scratch"
        )  # it is another run's: its digest would be another
        second = harness.run("train-autoencoder")
        assert second.json("config.json") == first.json("config.json")  # scale and shift among them
        one, two = (load_file(a.path("autoencoder.safetensors")) for a in (first, second))
        for name, tensor in one.items():
            same = trained == "nothing" or name.startswith("encoder.")
            assert torch.equal(two[name], tensor) == same, name


def flux_codec(folder: Path) -> Autoencoder:
    """diffusers' `vae` folder with an untrained autoencoder in bf16, of its own scale and shift."""
    torch.manual_seed(1)
    shape = AutoencoderShape(ch=8, ch_mult=(1, 1, 2, 2), num_res_blocks=1, norm_groups=4)
    model = Autoencoder(shape, 0.7, 0.1).bfloat16()
    (folder / "vae").mkdir(parents=True)
    state = to_diffusers(model.state_dict(), rules_for(model))
    save_file(state, folder / "vae/diffusion_pytorch_model.safetensors")
    (folder / "vae/config.json").write_text(json.dumps(autoencoder_config(model)))
    return model


def test_a_given_autoencoder_is_taken_as_it_is(tmp_path: Path) -> None:
    model = flux_codec(tmp_path / "flux")
    for place in ("flux", "flux/vae"):
        harness = dataset(tmp_path / f"run-{place[-3:]}", finished_run.SPLIT_NAMES)
        too_large = 4 * finished_run.SIDE  # for crops, which nothing is trained on here
        made = given(harness, str(tmp_path / place), crop=too_large).run("train-autoencoder")
        assert made.json("config.json") == model.config()  # not the recipe's shape
        state = load_file(made.path("autoencoder.safetensors"))
        for name, tensor in model.state_dict().items():
            assert torch.equal(state[name], tensor.float()), name
        assert not made.names("history.parquet") and made.manifest.metrics["psnr_held_out"] > 3
        assert "the given autoencoder is taken as it is" in made.manifest.notes


def test_the_scale_of_given_weights_changes_only_where_all_are_trained_and_it_is_said(
    tmp_path: Path,
) -> None:
    flux_codec(tmp_path / "flux")
    harness = dataset(tmp_path / "run", finished_run.SPLIT_NAMES)
    made = given(harness, str(tmp_path / "flux"), given="all").run("train-autoencoder")
    scale, shift = (made.json("config.json")[name] for name in ("scale", "shift"))
    assert (scale, shift) != (0.7, 0.1) and made.names("history.parquet")
    told = f"scale 0.7000 and shift 0.1000 are {scale:.4f} and {shift:.4f} now"
    assert any(note.endswith(told) for note in made.manifest.notes)


def test_missing_files_and_shapes_that_are_not_told_are_one_line(tmp_path: Path) -> None:
    harness = given(dataset(tmp_path, finished_run.SPLIT_NAMES), str(tmp_path / "nothing"))
    with pytest.raises(RecipeError, match="neither a file, a folder nor an artifact"):
        harness.run("train-autoencoder")
    path = tmp_path / "codec.safetensors"
    wide = AutoencoderShape(ch=32, ch_mult=(1, 1, 1, 1), num_res_blocks=1, norm_groups=4)
    save_file(Autoencoder(wide).state_dict(), path)
    with pytest.raises(WeightsError, match="norm_groups, scale, shift cannot be read"):
        given(harness, str(path)).run("train-autoencoder")


def test_reconstructions_are_measured_and_shown_on_the_way(tmp_path: Path) -> None:
    harness = dataset(tmp_path, finished_run.SPLIT_NAMES)
    plain = harness.run("train-autoencoder").table("history.parquet").to_pylist()
    other = dataset(tmp_path / "other", finished_run.SPLIT_NAMES)
    section = other.recipe.autoencoder.model_copy(update={"validate_every": 2})
    other.recipe = other.recipe.model_copy(update={"autoencoder": section})
    made = other.run("train-autoencoder")
    assert made.table("history.parquet").to_pylist() == plain  # measuring leaves no trace
    (row,) = made.table("measured.parquet").to_pylist()
    assert row["step"] == 2 and row["val_psnr"] > 3
    (board,) = (other.folder / "home/tensorboard").glob("autoencoder-*/events*")
    data = b"".join(path.read_bytes() for path in board.parent.iterdir())
    for tag in (b"autoencoder/l1", b"autoencoder/seconds", b"autoencoder/val_psnr"):
        assert tag in data
    assert b"autoencoder/reconstructions" in data and b"PNG" in data


def streamed(folder: Path, splits: tuple[str, ...] = finished_run.SPLIT_NAMES) -> Harness:
    harness = dataset(folder, splits)
    section = harness.recipe.autoencoder.model_copy(update={"crop": 32, "checkpoint_every": 2})
    harness.recipe = harness.recipe.model_copy(update={"autoencoder": section})
    return harness


def test_images_can_be_streamed_and_a_killed_run_goes_on_with_the_same_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "killed", "memory"):
        (tmp_path / name).mkdir()
    whole = streamed(tmp_path / "whole").run("train-autoencoder")
    killed = streamed(tmp_path / "killed")
    broken_at(monkeypatch, AutoencoderMethod, 2, killed, "train-autoencoder")
    resumed = killed.run("train-autoencoder")
    histories = [made.table("history.parquet").to_pylist() for made in (whole, resumed)]
    assert histories[0] == histories[1] and len(histories[0]) == 3
    weights = [load_file(made.path("autoencoder.safetensors")) for made in (whole, resumed)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    memory = dataset(tmp_path / "memory", finished_run.SPLIT_NAMES).run("train-autoencoder")
    assert memory.table("history.parquet").to_pylist() != histories[0]
    assert whole.json("health.json")["psnr_held_out"] > 3


def test_streaming_a_split_without_images_stops_before_training(tmp_path: Path) -> None:
    with pytest.raises(GateError, match=r"a split has no images \(train 0"):
        streamed(tmp_path, ("val", "test")).run("train-autoencoder")
