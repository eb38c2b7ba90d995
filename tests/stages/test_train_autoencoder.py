from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kontext.errors import GateError
from kontext.evaluate.models import load_autoencoder
from schemas.recipes import AutoencoderConfig
from tests.stages import finished_run
from tests.stages.stage_harness import Harness


def dataset(folder: Path, splits: tuple[str, ...]) -> Harness:
    """Shards whose pairs go to `splits` in turn."""
    base = finished_run.recipe()
    config = AutoencoderConfig(
        shape=base.autoencoder.shape, steps=3, batch=4, perceptual_start=1, disc_start=2
    )
    harness = Harness(folder, base.model_copy(update={"autoencoder": config}))
    images, rows = finished_run._pairs()
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
    images, _ = finished_run._pairs()
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
