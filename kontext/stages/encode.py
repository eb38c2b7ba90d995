"""Stage encode: latents (mode) and text states, computed once for every image and text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import torch
from torch import Tensor

from kontext.data.banks import Bank, Entries, make_shards, write_bank
from kontext.data.latents import (
    ENCODED_PAIRS,
    encode_images,
    encode_texts,
    pair_rows,
    text_key,
    unique_texts,
)
from kontext.data.loader import PairSet, decoded, load_split
from kontext.models.autoencoder import Autoencoder
from kontext.models.batch import sampled
from kontext.models.precision import compute_dtype
from kontext.models.text import TextEncoder, load_text_encoder
from kontext.models.trained import load_autoencoder
from kontext.parallel.memory import keep_freed_memory
from kontext.stage import ArtifactReader, Stage, StageContext
from kontext.stages.numerics import LEDGER, agree, encoded_ledger, record
from kontext.stages.ranks import on_ranks, open_input
from kontext.train.rank import Rank
from schemas.train_config import EncodeConfig

STAGE = Stage(
    name="encode",
    section="encode",
    inputs=("shard", "train-autoencoder"),
    summary="encode images and text once, keyed by content and encoder digest",
)


def run(ctx: StageContext) -> None:
    """Encode all splits; the banks are keyed by pixel id, text and encoder digests.

    Memory holds one shard of either bank at a time, and a rerun takes the finished ones.

    Raises:
        NumericsError: the autoencoder was trained with other numerics than it has here.
        ArtifactError: an image is damaged, or of another size than the others.
    """
    config = ctx.config
    assert isinstance(config, EncodeConfig)
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_autoencoder(ctx.inputs["train-autoencoder"], device)
    encoder = load_text_encoder(device=device)
    ledger = encoded_ledger(
        ctx, model, compute_dtype("auto", device), encoder.digest, config.text_length
    )
    agree(ctx, "encode", ledger, "train-autoencoder", arithmetic=False)

    if config.launch.launcher != "in-process":
        _encode_on_ranks(ctx, config)
    splits = _splits(ctx.inputs["shard"])
    codec = _codec_digest(ctx.inputs["train-autoencoder"])
    latents, texts = (
        write_bank(ctx.output, ctx.scratch, each.name, each.entries, config.shard_rows, each.encode)
        for each in (
            _latents(config, model, splits, codec, device, ctx.report.progress),
            _texts(config, encoder, splits, ctx.report.progress),
        )
    )
    image_row, text_row = (
        {key: row for row, key in enumerate(keys)} for keys in (latents.keys, texts.texts or [])
    )
    rows = [row for pairs in splits for row in pair_rows(pairs, image_row, text_row)]
    ctx.output.add_table("pairs.parquet", pa.Table.from_pylist(rows, ENCODED_PAIRS))
    stored = {
        "dtype: latents": latents.tensors["latents"].dtype,
        "text: dtype": texts.tensors["tokens"].dtype,
    }
    names = {name: str(dtype).removeprefix("torch.") for name, dtype in stored.items()}
    ctx.output.add_json(LEDGER, {**ledger, **names})
    record(ctx, "encode", {**ledger, **names})
    _summarise(ctx, config, latents, texts)


def _encode_on_ranks(ctx: StageContext, config: EncodeConfig) -> None:
    """All shards of both banks into the scratch folder, by the ranks that the recipe asks for."""

    def progress(done: int, total: int, _: Mapping[str, float | None]) -> None:
        ctx.report.progress(done, total, "encoding on ranks")

    on_ranks(
        ctx,
        config,
        progress,
        encode_on_rank,
        shards=ctx.inputs["shard"].digest,
        codec=ctx.inputs["train-autoencoder"].digest,
        folder=str(ctx.scratch),
    )


def encode_on_rank(
    rank: Rank,
    *,
    config: dict[str, Any],
    store: str,
    cache: str,
    shards: str,
    codec: str,
    folder: str,
) -> None:
    """A rank's shards of both banks; `folder` is on a disk that all ranks see."""
    section, world = EncodeConfig.model_validate(config), rank.world
    keep_freed_memory()
    trained = open_input(store, cache, "train-autoencoder", codec)
    model = load_autoencoder(trained, world.device)
    encoder = load_text_encoder(device=world.device)
    splits = _splits(open_input(store, cache, "shard", shards))

    def progress(done: int, total: int, _: str) -> None:
        rank.check()
        rank.progress(done, total, {})

    for name, entries, encode in (
        _latents(section, model, splits, _codec_digest(trained), world.device, progress),
        _texts(section, encoder, splits, progress),
    ):
        place = Path(folder)
        make_shards(place, name, entries, section.shard_rows, encode, world.rank, world.size)


class _Work(NamedTuple):
    """A bank to be made: what its rows are of, and what encodes a range of them."""

    name: str
    entries: Entries
    encode: Callable[[range], dict[str, Tensor]]


_Progress = Callable[[int, int, str], None]


def _splits(shards: ArtifactReader) -> list[PairSet]:
    return [load_split(shards, name) for name in ("train", "val", "test")]


def _codec_digest(codec: ArtifactReader) -> str:
    return hashlib.sha256(codec.path("autoencoder.safetensors").read_bytes()).hexdigest()


def _latents(
    config: EncodeConfig,
    model: Autoencoder,
    splits: list[PairSet],
    digest: str,
    device: torch.device,
    progress: _Progress,
) -> _Work:
    """All splits' images, in the order of their pixel ids."""
    pngs = {pixel_id: png for pairs in splits for pixel_id, png in pairs.pngs.items()}
    ids = sorted(pngs)

    def encode(rows: range) -> dict[str, Tensor]:
        made, done = [], rows.start
        for images in decoded(pngs, ids[rows.start : rows.stop], config.batch):
            made.append(encode_images(model, images, device))
            done += len(images)
            progress(done, len(ids), "encoding images")
        return {"latents": torch.cat(made)}

    return _Work("latents", Entries(ids, digest), encode)


def _texts(
    config: EncodeConfig, encoder: TextEncoder, splits: list[PairSet], progress: _Progress
) -> _Work:
    """All splits' instructions, the empty prompt first."""
    texts = unique_texts(row.instruction for pairs in splits for row in pairs.rows)

    def encode(rows: range) -> dict[str, Tensor]:
        progress(rows.start, len(texts), "encoding texts")
        states = encode_texts(encoder, texts[rows.start : rows.stop], config.text_length)
        return states.tensors()

    entries = Entries([text_key(text) for text in texts], encoder.digest, texts)
    return _Work("texts", entries, encode)


def _summarise(ctx: StageContext, config: EncodeConfig, latents: Bank, texts: Bank) -> None:
    lengths = texts.tensors["mask"][torch.arange(len(texts.keys))].sum(1)
    truncated = int((lengths == config.text_length).sum())
    images, states = latents.tensors["latents"], texts.tensors["tokens"]
    spread = float(sampled(images).std())
    shards = sum(-(-len(bank.keys) // config.shard_rows) for bank in (latents, texts))
    ctx.output.metric("shards", shards)
    ctx.output.metric("images", len(images))
    ctx.output.metric("texts", len(states))
    ctx.output.metric("longest_text", int(lengths.max()))
    ctx.output.metric("texts_at_length_limit", truncated)
    ctx.output.metric("latent_std", spread)
    ctx.report.markdown(
        "encode-summary",
        f"**{len(images):,}** images to latents {tuple(images.shape[1:])} "
        f"(std {spread:.3f}); **{len(states):,}** texts to "
        f"{config.text_length} x {states.shape[2]} states, {truncated} of them at the limit.",
    )
