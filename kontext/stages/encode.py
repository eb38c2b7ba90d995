"""Stage encode: latents (mode) and text states, computed once for every image and text."""

from __future__ import annotations

import hashlib

import pyarrow as pa
import torch
from torch import Tensor

from kontext.data.banks import Bank, write_bank
from kontext.data.latents import (
    ENCODED_PAIRS,
    TextStates,
    encode_images,
    encode_texts,
    pair_rows,
)
from kontext.data.loader import load_split
from kontext.evaluate.models import load_autoencoder
from kontext.models.precision import compute_dtype
from kontext.models.text import load_text_encoder
from kontext.parallel.memory import keep_freed_memory
from kontext.stage import StageContext
from kontext.stages.numerics import LEDGER, agree, encoded_ledger, record
from schemas.train_config import EncodeConfig


def run(ctx: StageContext) -> None:
    """Encode all splits; the banks are keyed by pixel id, text and encoder digests.

    Raises:
        NumericsError: the autoencoder was trained with other numerics than it has here.
    """
    config = ctx.config
    assert isinstance(config, EncodeConfig)
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    codec_path = ctx.inputs["train-autoencoder"].path("autoencoder.safetensors")
    model = load_autoencoder(ctx.inputs["train-autoencoder"], device)
    encoder = load_text_encoder(device=device)
    ledger = encoded_ledger(
        ctx, model, compute_dtype("auto", device), encoder.digest, config.text_length
    )
    agree(ctx, "encode", ledger, "train-autoencoder", arithmetic=False)

    splits = {name: load_split(ctx.inputs["shard"], name) for name in ("train", "val", "test")}
    pixels = {
        pixel_id: pairs.images[row]
        for pairs in splits.values()
        for row, pixel_id in enumerate(pairs.pixel_ids)
    }
    ids = sorted(pixels)
    images = torch.stack([torch.from_numpy(pixels[pixel_id]) for pixel_id in ids]).to(device)
    latents = encode_images(
        model,
        images,
        config.batch,
        lambda done: ctx.report.progress(done, len(ids), "encoding images"),
    )
    texts = encode_texts(
        encoder,
        [row.instruction for pairs in splits.values() for row in pairs.rows],
        config.text_length,
    )
    image_row = {pixel_id: row for row, pixel_id in enumerate(ids)}
    rows = [row for pairs in splits.values() for row in pair_rows(pairs, image_row, texts.texts)]

    codec_digest = hashlib.sha256(codec_path.read_bytes()).hexdigest()
    banks = {
        "latents": Bank(ids, codec_digest, {"latents": latents}),
        "texts": texts.bank(encoder.digest),
    }
    shards = [
        write_bank(ctx.output, ctx.scratch, name, bank, config.shard_rows)
        for name, bank in banks.items()
    ]
    ctx.output.metric("shards", sum(shards))
    ctx.output.add_table("pairs.parquet", pa.Table.from_pylist(rows, ENCODED_PAIRS))
    stored = {"dtype: latents": latents.dtype, "text: dtype": texts.tokens.dtype}
    names = {name: str(dtype).removeprefix("torch.") for name, dtype in stored.items()}
    ctx.output.add_json(LEDGER, {**ledger, **names})
    record(ctx, "encode", {**ledger, **names})
    _summarise(ctx, config, ids, latents, texts)


def _summarise(
    ctx: StageContext, config: EncodeConfig, ids: list[str], latents: Tensor, texts: TextStates
) -> None:
    longest = int(texts.mask.sum(1).max())
    truncated = int((texts.mask.sum(1) == config.text_length).sum())
    ctx.output.metric("images", len(ids))
    ctx.output.metric("texts", len(texts.texts))
    ctx.output.metric("longest_text", longest)
    ctx.output.metric("texts_at_length_limit", truncated)
    ctx.output.metric("latent_std", float(latents.float().std()))
    ctx.report.markdown(
        "encode-summary",
        f"**{len(ids):,}** images to latents {tuple(latents.shape[1:])} "
        f"(std {latents.float().std():.3f}); **{len(texts.texts):,}** texts to "
        f"{config.text_length} x {texts.tokens.shape[2]} states, {truncated} of them at the limit.",
    )
