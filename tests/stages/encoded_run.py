"""A tiny encoded dataset in a harness: random latents and texts, an untrained codec."""

from pathlib import Path

import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from kontext.data.encoded.banks import Entries, open_bank, write_bank
from kontext.data.encoded.latents import ENCODED_PAIRS
from kontext.data.encoded.pair_tensors import NO_CONTEXT
from kontext.models.autoencoder.network import Autoencoder
from kontext.store.artifacts.artifact_store import Artifact, ArtifactWriter
from schemas.recipes import Recipe, load_recipe
from schemas.sections.models import TransformerShape
from schemas.sections.training import DistillConfig, FinetuneConfig
from schemas.tables import CATEGORIES
from tests.stages.stage_harness import Harness

SHAPE = TransformerShape(
    in_channels=64,
    vec_in_dim=12,
    context_in_dim=12,
    hidden_size=32,
    num_heads=2,
    depth=1,
    depth_single_blocks=2,
    axes_dim=(4, 6, 6),
    guidance_embed=False,
)
PER_CATEGORY = 4  # edits per category and split; as many text-to-image pairs
FLOW = {"t2i_steps": 2, "joint_steps": 4, "batch": 8, "warmup": 1, "checkpoint_every": 2}
LADD = {
    "teacher_edits": 10,
    "teacher_steps": 2,
    "guidance": 2.0,
    "steps": 6,
    "warmup_steps": 1,
    "batch": 4,
    "lr_student": 1e-3,
    "checkpoint_every": 2,
}


def toy_recipe(**distill: object) -> Recipe:
    """The ci recipe with a transformer of 32 channels and a handful of steps."""
    return load_recipe("ci").model_copy(
        update={
            "finetune": FinetuneConfig.model_validate({"shape": SHAPE, **FLOW}),
            "distill": DistillConfig.model_validate({**LADD, **distill}),
        }
    )


def encoded_run(folder: Path, **distill: object) -> Harness:
    """Inputs of finetune, made by hand: 4 x 4 latents of 32-pixel images that never were."""
    harness = Harness(folder, toy_recipe(**distill))
    torch.manual_seed(0)
    codec = Autoencoder(harness.recipe.autoencoder.shape, 0.5, 0.1)

    def weights(writer: ArtifactWriter) -> None:
        path = folder / "autoencoder.safetensors"
        save_file({k: v.contiguous() for k, v in codec.state_dict().items()}, path)
        writer.add_file(path.name, path)
        writer.add_json("config.json", codec.config())

    harness.make("train-autoencoder", weights)
    harness.make("encode", lambda writer: _encode(writer, folder))
    return harness


def _encode(writer: ArtifactWriter, folder: Path) -> None:
    rows: list[dict[str, object]] = []
    for split in ("train", "val"):
        for category in (*CATEGORIES, "t2i"):
            for _ in range(PER_CATEGORY):
                number = len(rows)
                rows.append(
                    {
                        "pair_id": f"{number:064x}",
                        "split": split,
                        "relation_class": category,
                        "target": 2 * number,
                        "context": NO_CONTEXT if category == "t2i" else 2 * number + 1,
                        # every third edit has a reference
                        "references": [0] if category != "t2i" and number % 3 == 0 else [],
                        "text": number + 1,
                    }
                )
    draw = torch.Generator().manual_seed(1)
    latents = torch.randn(2 * len(rows), 16, 4, 4, generator=draw).half()
    texts = {
        "tokens": torch.randn(len(rows) + 1, 5, 12, generator=draw).half(),
        "mask": torch.ones(len(rows) + 1, 5, dtype=torch.bool),
        "pooled": torch.randn(len(rows) + 1, 12, generator=draw).half(),
    }
    for name, tensors in (("latents", {"latents": latents}), ("texts", texts)):
        keys = [f"{name}-{row}" for row in range(len(next(iter(tensors.values()))))]
        (folder / name).mkdir()

        def part(rows: range, whole: dict[str, Tensor] = tensors) -> dict[str, Tensor]:
            return {key: value[rows.start : rows.stop] for key, value in whole.items()}

        write_bank(writer, folder / name, name, Entries(keys, "0" * 64), 50, part)
    writer.add_table("pairs.parquet", pa.Table.from_pylist(rows, ENCODED_PAIRS))


def broken_at(
    monkeypatch: pytest.MonkeyPatch, method: type, step: int, harness: Harness, stage: str
) -> None:
    """Run `stage` until `method` is asked for `step`, where its process dies."""

    class Died(BaseException):
        pass

    real = method.step  # type: ignore[attr-defined]

    def dying(self: object, index: int) -> object:
        if index == step:
            raise Died
        return real(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(method, "step", dying)
        with pytest.raises(Died):
            harness.run(stage)


def edits_of(artifact: Artifact) -> dict[str, Tensor]:
    """The teacher's edits in an artifact of `distill`, and the pairs they are of."""
    rows = open_bank(artifact, "teacher-edits").tensors
    return {name: values[torch.arange(len(values))] for name, values in rows.items()}
