"""A tiny finished run up to distill, with hand-made tables and untrained weights."""

import hashlib
import json
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import save_file
from torch import nn

from kontext.data.pixels import encode_png, pixel_id
from kontext.data.shards.write import ShardSample, ShardSet, write_shards
from kontext.models.autoencoder.network import Autoencoder
from kontext.models.features.clip import SmallClip, SmallScorer
from kontext.models.features.efficientnet import load_features
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.text.encoders import load_text_encoder
from kontext.store.artifacts.artifact_store import ArtifactWriter
from schemas.recipes import Recipe, load_recipe
from schemas.sections.data import IngestConfig
from schemas.sections.evaluation import EvaluateConfig, PublishConfig
from schemas.tables import (
    CAPTIONS,
    CATEGORIES,
    DECISIONS,
    IMAGE_SCORES,
    IMAGES,
    PAIR_SCORES,
    PAIRS,
    REJECTS,
    SPLITS,
)
from tests.stages.stage_harness import Harness, rows_table

SPLIT_NAMES = ("train", "val", "test")
SIDE = 64  # smaller images leave EfficientNet-Lite0 a single position
CANARY_HASH = "ca9a" * 16  # stands for an id that must never reach a report


def recipe() -> Recipe:
    """The ci recipe with a bench of four items per category."""
    base = load_recipe("ci")
    return base.model_copy(
        update={
            "evaluate": EvaluateConfig(
                items_per_category=4, teacher_steps=2, diagnosed=2, step_items=1
            ),
            "ingest": IngestConfig(resolution=SIDE, canaries=5),
            "publish": PublishConfig(name="tiny"),
        }
    )


def finished_run(folder: Path) -> Harness:
    """All inputs of evaluate, made by hand."""
    harness = Harness(folder, recipe())
    make_data(harness)
    _models(harness)
    return harness


@cache
def evaluated_run() -> Harness:
    """`finished_run` and its evaluation, made once in a process: to be read, or copied.

    This one is timed as users' are.
    """
    harness = finished_run(Path(tempfile.mkdtemp(prefix="kontext-evaluated-")))
    harness.run("evaluate", briefly=False)
    return harness


def make_data(harness: Harness, splits: Sequence[str] = ("train", "test")) -> None:
    """What the stages up to `index` give, by hand; a category's pairs take turns in `splits`."""
    folder = harness.folder
    images, rows = _pairs(splits)
    harness.make("ingest", lambda w: _ingest(w, images))
    harness.make("mine", lambda w: _mine(w, rows))
    harness.make("caption", lambda w: _caption(w, rows))
    harness.make("screen", lambda w: _screen(w, rows, images, folder))
    harness.make("shard", lambda w: _shard(w, rows, images, folder))
    index = {"dataset": "tiny", "version": 1, "snapshot_id": 4, "counts": {"pairs": len(rows)}}
    harness.make("index", lambda w: w.add_json("index.json", index))


def _pairs(
    splits: Sequence[str] = SPLIT_NAMES,
) -> tuple[dict[str, np.ndarray], list[dict[str, object]]]:
    rng = np.random.default_rng(0)
    images: dict[str, np.ndarray] = {}
    rows: list[dict[str, object]] = []

    def add(picture: np.ndarray) -> str:
        images[pixel_id(picture)] = picture
        return pixel_id(picture)

    for category in (*CATEGORIES, "t2i"):
        for number in range(12):
            context = np.full((SIDE, SIDE, 3), rng.integers(40, 215, 3), np.uint8)
            target = context.copy()
            target[16:48, 16:48] = rng.integers(0, 255, 3)
            pair_id = hashlib.sha256(f"{category}{number}".encode()).hexdigest()
            contexts = [] if category == "t2i" else [add(context)]
            rows.append(
                {
                    "pair_id": pair_id,
                    "relation_class": category,
                    "relation": f"{category}-{number % 2}",
                    "instruction": f"make the <b>{category}</b> & change {number}",
                    "instruction_short": "change",
                    "instruction_inverse": "undo",
                    "target_caption": f"a square {number}",
                    "context_caption": "a field" if contexts else "",
                    "params": {},
                    "context_ids": contexts,
                    "target_id": add(target),
                    "license_spdx": "CC-BY-SA-4.0" if number % 3 else "MIT",
                    "source": f"emoji:set{number % 2}",
                    "split": splits[number % len(splits)],
                    "component_id": f"{category}-{number}",
                }
            )
    return images, rows


def _ingest(writer: ArtifactWriter, images: dict[str, np.ndarray]) -> None:
    rows = [{"pixel_id": i, "source": "emoji:set0", "license_spdx": "MIT"} for i in sorted(images)]
    writer.add_table("images/000.parquet", rows_table(IMAGES, rows))
    gate = {"subject_kind": "image", "check": "hash_gate", "provider": "canary-bank@1"}
    decisions = [{**gate, "outcome": "pass"}] * len(images)
    stopped = {**gate, "outcome": "drop", "reason": "canary", "subject_hmac": CANARY_HASH}
    writer.add_table("decisions.parquet", rows_table(DECISIONS, [*decisions, *[stopped] * 3]))
    rejects = [{"source": "emoji:set0", "subject_hmac": CANARY_HASH, "reason": "hash_gate"}]
    writer.add_table("rejects.parquet", rows_table(REJECTS, rejects))
    writer.metric("canaries_stopped", 3)
    writer.note("no external hash list")


def _mine(writer: ArtifactWriter, rows: list[dict[str, object]]) -> None:
    kept = [{k: row[k] for k in row if k in PAIRS.names} | {"params": "{}"} for row in rows]
    writer.add_table("pairs.parquet", rows_table(PAIRS, kept))
    counts = [
        {"relation_class": "local", "relation": "r", "outcome": "kept", "pairs": 12},
        {"relation_class": "local", "relation": "r", "outcome": "quota", "pairs": 31},
    ]
    writer.add_json("counts.json", {"proposed": 43, "outcomes": counts})


def _caption(writer: ArtifactWriter, rows: list[dict[str, object]]) -> None:
    kept = [{k: row[k] for k in row if k in CAPTIONS.names} | {"status": "ok"} for row in rows]
    writer.add_table("captions.parquet", rows_table(CAPTIONS, kept))


def _screen(
    writer: ArtifactWriter,
    rows: list[dict[str, object]],
    images: dict[str, np.ndarray],
    folder: Path,
) -> None:
    torch.manual_seed(1)
    for path in SmallScorer(SmallClip(), load_features(), load_text_encoder()).save(folder):
        writer.add_file(path.name, path)
    accepted = [{"pair_id": row["pair_id"], "accept": True, "reject_reasons": []} for row in rows]
    accepted.append({"pair_id": "f" * 64, "accept": False, "reject_reasons": ["ssim_max"]})
    writer.add_table("accepted.parquet", pa.Table.from_pylist(accepted))
    scores = [
        {"pixel_id": i, "classifier": "open-nsfw", "label": "nsfw", "score": 0.01}
        for i in sorted(images)
    ]
    writer.add_table("image_scores.parquet", rows_table(IMAGE_SCORES, scores))
    judged = [{"pair_id": row["pair_id"], "nsfw_max": 0.01} for row in rows]
    writer.add_table("pair_scores.parquet", rows_table(PAIR_SCORES, judged))
    decision = {"check": "classifier", "provider": "open-nsfw@1", "outcome": "pass"}
    writer.add_table("decisions.parquet", rows_table(DECISIONS, [decision]))
    writer.add_json("policy.json", {"version": "default-1", "thresholds": {"nsfw_max": 0.5}})


def _shard(
    writer: ArtifactWriter,
    rows: list[dict[str, object]],
    images: dict[str, np.ndarray],
    folder: Path,
) -> None:
    shards = ShardSet()
    for split in [name for name in SPLIT_NAMES if any(row["split"] == name for row in rows)]:
        samples = [
            ShardSample(
                str(row["pair_id"]),
                tuple(row["context_ids"]),
                str(row["target_id"]),
                {k: v for k, v in row.items() if k != "component_id"},
            )
            for row in rows
            if row["split"] == split
        ]
        write_shards(samples, split, folder, 100, lambda i: encode_png(images[i]), shards)
    for path in shards.paths:
        writer.add_file(path.name, path)
    shard_table, member_table = shards.tables()
    writer.add_table("shards.parquet", shard_table)
    writer.add_table("shard_members.parquet", member_table)
    splits = [{k: row[k] for k in SPLITS.names} for row in rows]
    writer.add_table("splits.parquet", rows_table(SPLITS, splits))


def _models(harness: Harness) -> None:
    torch.manual_seed(0)
    settings, folder = harness.recipe, harness.folder
    autoencoder = Autoencoder(settings.autoencoder.shape, 0.5, 0.1)
    teacher, student = (FluxTransformer(settings.finetune.shape) for _ in range(2))
    history = pa.Table.from_pylist(
        [
            {
                "step": i,
                "l1": 1 / (i + 1),
                "edit": 1.0,
                "t2i": 0.9,
                "heads_loss": 1.0,
                "real_logit": 0.1,
            }
            for i in range(20)
        ]
    )
    levels = pa.Table.from_pylist(
        [
            {"category": c, "level": i, "t": 0.2 + 0.3 * i, "loss": 0.1 * (i + 1), "n": 3}
            for c in CATEGORIES
            for i in range(3)
        ]
    )

    def weights(writer: ArtifactWriter, name: str, model: nn.Module) -> None:
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / name)
        writer.add_file(name, folder / name)

    def codec(writer: ArtifactWriter) -> None:
        weights(writer, "autoencoder.safetensors", autoencoder)
        writer.add_json("config.json", autoencoder.config())
        writer.add_table("history.parquet", history)

    def flow(writer: ArtifactWriter) -> None:
        weights(writer, "flow.safetensors", teacher)
        writer.add_json("config.json", {"shape": teacher.shape.model_dump(mode="json")})
        writer.add_table("history.parquet", history)
        writer.add_table("levels.parquet", levels)
        writer.kernel("attention", "sdpa")

    def few(writer: ArtifactWriter) -> None:
        weights(writer, "student.safetensors", student)
        writer.add_json("config.json", {"shape": student.shape.model_dump(mode="json")})
        writer.add_table("history.parquet", history)

    harness.make("train-autoencoder", codec)
    harness.make("encode", lambda w: w.add_bytes("texts.json", json.dumps([]).encode()))
    harness.make("finetune", flow)
    harness.make("distill", few)
