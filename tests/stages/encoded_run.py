"""A tiny encoded dataset in a harness: random latents and texts, an untrained codec."""

import tempfile
from collections.abc import Sequence
from functools import cache
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
SHAPES = ((4, 4), (4, 6), (6, 4), (4, 8))  # of latents: rows, columns
PER_CATEGORY = 4  # edits per category and split; as many text-to-image pairs
PAIRS = 2 * PER_CATEGORY * (len(CATEGORIES) + 1)
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


def encoded_run(
    folder: Path, categories: Sequence[str] = (*CATEGORIES, "t2i"), **distill: object
) -> Harness:
    """Inputs of finetune, made by hand: latents of small images of four shapes that never were."""
    harness = Harness(folder, toy_recipe(**distill))
    torch.manual_seed(0)
    codec = Autoencoder(harness.recipe.autoencoder.shape, 0.5, 0.1)

    def weights(writer: ArtifactWriter) -> None:
        path = folder / "autoencoder.safetensors"
        save_file({k: v.contiguous() for k, v in codec.state_dict().items()}, path)
        writer.add_file(path.name, path)
        writer.add_json("config.json", codec.config())

    harness.make("train-autoencoder", weights)
    harness.make("encode", lambda writer: _encode(writer, folder, categories))
    return harness


def taught(folder: Path, **distill: object) -> Harness:
    """Inputs of distill: `encoded_run` and a teacher, which `distill` does not change."""
    harness = _teacher().copied(folder)
    harness.recipe = toy_recipe(**distill)
    return harness


@cache
def _teacher() -> Harness:
    """Trained once in a process."""
    harness = encoded_run(Path(tempfile.mkdtemp(prefix="kontext-teacher-")))
    harness.run("finetune")
    return harness


def _shape(image: int) -> tuple[int, int]:
    """(rows, columns) of an image's latents: the two images of a pair have the same."""
    return SHAPES[image // 2 % len(SHAPES)]


def _encode(writer: ArtifactWriter, folder: Path, categories: Sequence[str]) -> None:
    rows: list[dict[str, object]] = []
    place = {image: row for row, image in enumerate(sorted(range(2 * PAIRS), key=_shape))}
    for split in ("train", "val"):
        for category in categories:
            for _ in range(PER_CATEGORY):
                number = len(rows)
                rows.append(
                    {
                        "pair_id": f"{number:064x}",
                        "split": split,
                        "relation_class": category,
                        "target": place[2 * number],
                        "context": NO_CONTEXT if category == "t2i" else place[2 * number + 1],
                        # every third edit has a reference, which may have another size
                        "references": [place[0]] if category != "t2i" and number % 3 == 0 else [],
                        "text": number + 1,
                    }
                )
    draw = torch.Generator().manual_seed(1)
    shapes = sorted(_shape(image) for image in range(2 * PAIRS))
    latents = [torch.randn(16, *shape, generator=draw).half() for shape in shapes]
    texts = {
        "tokens": torch.randn(len(rows) + 1, 5, 12, generator=draw).half(),
        "mask": torch.ones(len(rows) + 1, 5, dtype=torch.bool),
        "pooled": torch.randn(len(rows) + 1, 12, generator=draw).half(),
    }
    for name in ("latents", "texts"):
        (folder / name).mkdir()
    keys = [f"latents-{row}" for row in range(len(latents))]
    images = Entries(keys, "0" * 64, sizes=[(8 * w, 8 * h) for h, w in shapes])
    write_bank(
        writer,
        folder / "latents",
        "latents",
        images,
        50,
        lambda part: {"latents": torch.stack(latents[part.start : part.stop])},
    )
    words = Entries([f"texts-{row}" for row in range(len(rows) + 1)], "0" * 64)
    write_bank(
        writer,
        folder / "texts",
        "texts",
        words,
        50,
        lambda part: {key: value[part.start : part.stop] for key, value in texts.items()},
    )
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
    """The teacher's edits in an artifact of `distill`, joined, and the pairs they are of."""
    bank = open_bank(artifact, "teacher-edits").tensors
    latents = [bank["latents"][torch.tensor([row])].flatten() for row in range(len(bank["pairs"]))]
    pairs = bank["pairs"][torch.arange(len(bank["pairs"]))]
    return {"latents": torch.cat(latents), "pairs": pairs}
