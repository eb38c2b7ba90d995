"""Stage encode: latents (mode) and text states, computed once for every image and text."""

from __future__ import annotations

import hashlib

import pyarrow as pa
import torch
from torch import Tensor

from kontext.data.banks import Bank, Entries, write_bank
from kontext.data.latents import (
    ENCODED_PAIRS,
    encode_images,
    encode_texts,
    pair_rows,
    text_key,
    unique_texts,
)
from kontext.data.loader import PairSet, decoded, load_split
from kontext.evaluate.models import load_autoencoder
from kontext.models.autoencoder import Autoencoder
from kontext.models.batch import sampled
from kontext.models.precision import compute_dtype
from kontext.models.text import TextEncoder, load_text_encoder
from kontext.parallel.memory import keep_freed_memory
from kontext.stage import StageContext
from kontext.stages.numerics import LEDGER, agree, encoded_ledger, record
from schemas.train_config import EncodeConfig


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

    splits = [load_split(ctx.inputs["shard"], name) for name in ("train", "val", "test")]
    latents = _write_latents(ctx, config, model, splits, device)
    texts = _write_texts(ctx, config, encoder, splits)
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


def _write_latents(
    ctx: StageContext,
    config: EncodeConfig,
    model: Autoencoder,
    splits: list[PairSet],
    device: torch.device,
) -> Bank:
    """The bank of all splits' images, in the order of their pixel ids."""
    pngs = {pixel_id: png for pairs in splits for pixel_id, png in pairs.pngs.items()}
    ids = sorted(pngs)
    codec = ctx.inputs["train-autoencoder"].path("autoencoder.safetensors")

    def encode(rows: range) -> dict[str, Tensor]:
        made, done = [], rows.start
        for images in decoded(pngs, ids[rows.start : rows.stop], config.batch):
            made.append(encode_images(model, images, device))
            done += len(images)
            ctx.report.progress(done, len(ids), "encoding images")
        return {"latents": torch.cat(made)}

    entries = Entries(ids, hashlib.sha256(codec.read_bytes()).hexdigest())
    return write_bank(ctx.output, ctx.scratch, "latents", entries, config.shard_rows, encode)


def _write_texts(
    ctx: StageContext, config: EncodeConfig, encoder: TextEncoder, splits: list[PairSet]
) -> Bank:
    """The bank of all splits' instructions, the empty prompt first."""
    texts = unique_texts(row.instruction for pairs in splits for row in pairs.rows)

    def encode(rows: range) -> dict[str, Tensor]:
        ctx.report.progress(rows.start, len(texts), "encoding texts")
        states = encode_texts(encoder, texts[rows.start : rows.stop], config.text_length)
        return states.tensors()

    entries = Entries([text_key(text) for text in texts], encoder.digest, texts)
    return write_bank(ctx.output, ctx.scratch, "texts", entries, config.shard_rows, encode)


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
