import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from kontext.data.encoded.banks import open_bank
from kontext.data.encoded.latents import load_pairs
from kontext.models.autoencoder.network import Autoencoder, load_autoencoder
from kontext.models.text.encoders import load_text_encoder
from kontext.stages import encode as stage
from kontext.store.artifacts.artifact_store import Artifact, ArtifactWriter
from schemas.sections.training import EncodeConfig, LaunchConfig
from tests.stages import finished_run
from tests.stages.stage_harness import Harness


def sharded(folder: Path, seed: int = 0, text_length: int = 20) -> Harness:
    """A dataset in three splits and an untrained codec."""
    config = EncodeConfig(text_length=text_length, batch=16, shard_rows=40)
    harness = Harness(folder, finished_run.recipe().model_copy(update={"encode": config}))
    images, rows = finished_run._pairs(finished_run.SPLIT_NAMES)
    for number, row in enumerate(rows):
        row["split"] = finished_run.SPLIT_NAMES[number % 3]
    harness.make("shard", lambda w: finished_run._shard(w, rows, images, folder))
    torch.manual_seed(seed)
    codec = Autoencoder(harness.recipe.autoencoder.shape, 0.5, 0.1)

    def weights(writer: ArtifactWriter) -> None:
        path = folder / "autoencoder.safetensors"
        save_file({k: v.contiguous() for k, v in codec.state_dict().items()}, path)
        writer.add_file(path.name, path)
        writer.add_json("config.json", codec.config())

    harness.make("train-autoencoder", weights)
    return harness


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Harness, Artifact]:
    harness = sharded(tmp_path_factory.mktemp("encode"))
    return harness, harness.run("encode")


def test_latents_are_the_mode_of_the_image_they_are_keyed_by(
    made: tuple[Harness, Artifact],
) -> None:
    harness, artifact = made
    images, _ = finished_run._pairs(finished_run.SPLIT_NAMES)
    bank = open_bank(artifact, "latents")
    ids, latents = bank.keys, bank.tensors["latents"]
    assert ids == sorted(images)
    codec = load_autoencoder(harness.inputs["train-autoencoder"], torch.device("cpu"))
    for row in (0, len(ids) // 2, len(ids) - 1):
        pixels = torch.from_numpy(np.ascontiguousarray(images[ids[row]].transpose(2, 0, 1)))
        with torch.no_grad():
            expected = codec.encode(pixels[None].float() / 127.5 - 1)[0]
        found = latents[torch.tensor([row])][0].float()
        assert torch.allclose(found, expected, atol=0.05)  # bf16 there, fp32 here


def test_every_pair_finds_its_images_and_its_text(made: tuple[Harness, Artifact]) -> None:
    _, artifact = made
    _, rows = finished_run._pairs(finished_run.SPLIT_NAMES)
    known = {row["pair_id"]: row for row in rows}
    ids, texts = open_bank(artifact, "latents").keys, open_bank(artifact, "texts").texts
    assert texts is not None
    encoded = artifact.table("pairs.parquet").to_pylist()
    assert {row["pair_id"] for row in encoded} == set(known)
    assert {row["split"] for row in encoded} == set(finished_run.SPLIT_NAMES)
    for row in encoded:
        pair = known[row["pair_id"]]
        assert ids[row["target"]] == pair["target_id"]
        contexts = [] if row["context"] < 0 else [ids[row["context"]]]
        contexts += [ids[reference] for reference in row["references"]]
        assert contexts == pair["context_ids"] and texts[row["text"]] == pair["instruction"]
        assert row["source"] == pair["source"]
    assert texts[0] == "" and len(texts) == len(set(texts))
    data = load_pairs(artifact, "train", torch.device("cpu"))
    assert data.source is not None and set(data.sources) == {row["source"] for row in encoded}


def test_the_keys_name_both_encoders(made: tuple[Harness, Artifact], tmp_path: Path) -> None:
    harness, artifact = made
    weights = harness.inputs["train-autoencoder"].path("autoencoder.safetensors").read_bytes()
    latents, texts = open_bank(artifact, "latents"), open_bank(artifact, "texts")
    assert latents.encoder == hashlib.sha256(weights).hexdigest()
    assert texts.encoder == load_text_encoder().digest
    assert texts.texts is not None
    assert texts.keys == [hashlib.sha256(text.encode()).hexdigest() for text in texts.texts]
    other = sharded(tmp_path, seed=1).run("encode")
    others = open_bank(other, "latents")
    assert others.keys == latents.keys and others.encoder != latents.encoder
    sums = [{f.name: f.sha256 for f in a.manifest.files} for a in (artifact, other)]
    changed = {name for name in sums[0] if sums[0][name] != sums[1][name]}
    # the same bytes otherwise
    shards = {name for name in sums[0] if name.startswith("latents-")}
    assert len(shards) == artifact.manifest.metrics["shards"] - len(artifact.names("texts-")) > 1
    assert changed == shards | {"latents.parquet", "ledger.json"}


def test_texts_that_reach_the_limit_are_counted(tmp_path: Path) -> None:
    artifact = sharded(tmp_path, text_length=4).run("encode")
    text = open_bank(artifact, "texts").tensors
    assert text["tokens"].shape[1:] == (4, 384)
    mask = text["mask"][torch.arange(len(text["mask"]))]
    at_limit = int((mask.sum(1) == 4).sum())
    assert artifact.manifest.metrics["texts_at_length_limit"] == at_limit > 50
    assert artifact.manifest.metrics["longest_text"] == 4


def test_a_killed_run_keeps_its_finished_shards(
    made: tuple[Harness, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, harness = made[1], sharded(tmp_path)
    encode, calls = stage.encode_images, [0]

    def dies(*arguments: object) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 5:  # three batches of 16 make a shard of 40
            raise KeyboardInterrupt
        return encode(*arguments)

    monkeypatch.setattr(stage, "encode_images", dies)
    with pytest.raises(KeyboardInterrupt):
        harness.run("encode")
    again = harness.run("encode")
    count = len(open_bank(whole, "latents").keys)
    others = [-(-min(40, count - start) // 16) for start in range(40, count, 40)]
    assert calls[0] == 5 + sum(others)
    sums = [{f.name: f.sha256 for f in a.manifest.files} for a in (whole, again)]
    assert sums[0] == sums[1]


def test_ranks_make_the_shards_between_them(
    made: tuple[Harness, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, harness = made[1], sharded(tmp_path)
    section = harness.recipe.encode.model_dump()
    launch = LaunchConfig(launcher="torchrun", ranks=2)
    ranked = EncodeConfig.model_validate({**section, "launch": launch})
    harness.recipe = harness.recipe.model_copy(update={"encode": ranked})
    # nothing is left for this process
    monkeypatch.setattr(stage, "encode_images", _not_here)
    monkeypatch.setattr(stage, "encode_texts", _not_here)
    again = harness.run("encode")
    assert again.names() == whole.names()
    for name in ("latents", "texts"):
        one, two = open_bank(whole, name), open_bank(again, name)
        assert (two.keys, two.encoder, two.texts) == (one.keys, one.encoder, one.texts)
        for key, values in one.tensors.items():
            rows = torch.arange(len(values))
            near = {"atol": 0.02, "rtol": 0.02}  # of bf16, by another number of threads
            torch.testing.assert_close(two.tensors[key][rows], values[rows], **near)
    log = (harness.folder / "scratch/encode/ranks/ranks.log").read_text()
    assert "Traceback" not in log


def _not_here(*_: object) -> torch.Tensor:
    raise AssertionError("encoded in the stage's own process")
