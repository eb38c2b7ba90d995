"""What a training stage made is exported without being evaluated or published."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from kontext.edit.weights.folder import ModelSettings
from kontext.edit.weights.model_store import export_weights
from kontext.errors import WeightsError
from kontext.models.text.encoders import flux_digest
from kontext.store.artifacts.artifact_store import ArtifactStore
from kontext.store.objects import open_store
from schemas.manifest import Manifest
from schemas.recipes import load_recipe
from schemas.sections.base import Section
from tests.edit.tiny_flux import SHAPE, networks, write_checkpoint

RECIPE = load_recipe("flux1-ladd", ("ingest.resolution=64", "distill.student_steps=2"))


class Store:
    """Artifacts with hand-made files and manifests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = ArtifactStore(open_store(f"file://{folder}/store"), folder / "cache")
        self.made: dict[str, str] = {}

    def make(
        self,
        stage: str,
        section: Section,
        inputs: tuple[str, ...] = (),
        weights: Mapping[str, nn.Module] | None = None,
        jsons: Mapping[str, object] | None = None,
        metrics: Mapping[str, str] | None = None,
    ) -> None:
        digest = stage.replace("-", "")[0] * 16
        writer = self.store.writer(stage, digest)
        for name, model in (weights or {}).items():
            save_file(model.state_dict(), self.folder / name)
            writer.add_file(name, self.folder / name)
        for name, value in (jsons or {}).items():
            writer.add_json(name, value)
        writer.commit(
            Manifest(
                stage=stage,
                digest=digest,
                code_digest="",
                config=section.model_dump(mode="json"),
                inputs={source: self.made[source] for source in inputs},
                files=list(writer.files.values()),
                metrics=dict(metrics or {}),
                notes=[],
                recipe="own",
                created_at="2026-01-01T00:00:00+00:00",
                seconds=0,
                git_commit="",
                packages={},
                kernels={},
            )
        )
        self.made[stage] = digest
        self.store.tag(f"latest/{stage}", stage, digest)


@pytest.fixture
def run(tmp_path: Path) -> Store:
    """The artifacts that the weights of a finetune and of a distill are made from."""
    checkpoint = write_checkpoint(tmp_path / "flux")
    transformer, autoencoder = networks()
    found = Store(tmp_path)
    found.make("ingest", RECIPE.ingest)
    found.make("shard", RECIPE.shard, ("ingest",))
    found.make(
        "train-autoencoder",
        RECIPE.autoencoder,
        ("shard",),
        {"autoencoder.safetensors": autoencoder},
        {"config.json": autoencoder.config()},
    )
    found.make(
        "encode",
        RECIPE.encode,
        ("shard", "train-autoencoder"),
        jsons={"ledger.json": {"text: encoder sha256": flux_digest(checkpoint)}},
        metrics={"text_encoder": f"flux:{checkpoint}"},
    )
    config = {"config.json": {"shape": SHAPE.model_dump(mode="json")}}
    inputs = ("encode", "train-autoencoder")
    flow = {"flow.safetensors": transformer}
    found.make("finetune", RECIPE.finetune, inputs, flow, config)
    student = {"student.safetensors": transformer}
    found.make("distill", RECIPE.distill, (*inputs, "finetune"), student, config)
    return found


def test_a_finetune_and_a_student_are_exported_as_whole_pipelines(
    run: Store, tmp_path: Path
) -> None:
    for ref, steps, guidance in (("latest/finetune", 20, 2.5), ("distill", 2, 1.0)):
        folder = tmp_path / ref.replace("/", "-")
        made = export_weights(ref, "diffusers", folder, "", lambda: run.store)
        assert made["note"].startswith("a whole pipeline") and "model_index.json" in made["files"]
        settings = ModelSettings.model_validate(json.loads((folder / "kontext.json").read_text()))
        assert (settings.steps, settings.guidance) == (steps, guidance)
        own = flux_digest(folder)  # they were copied
        assert (settings.text_length, settings.text_digest) == (512, own)
        assert settings.sizes not in ("square", "kontext")  # shapes of 64 x 64 pixels' area
        theirs = load_file(folder / "transformer/diffusion_pytorch_model.safetensors")
        assert torch.equal(theirs["x_embedder.weight"], networks()[0].img_in.weight)


def test_where_an_ancestor_is_gone_it_is_one_line(run: Store, tmp_path: Path) -> None:
    run.store.objects.delete(f"runs/encode/{run.made['encode']}/manifest.json")
    with pytest.raises(WeightsError, match="the artifact of encode that it was made from is gone"):
        export_weights("finetune", "bfl", tmp_path / "out", "", lambda: run.store)
