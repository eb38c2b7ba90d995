"""Scores and pictures of a packed run: what `evaluate` tells, with numpy and torch alone.

Edit success is `kontext.evaluate.metrics.success`'s; a test holds the two together.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kontext.data.packed import Pack
from kontext.data.pair_tensors import PairTensors
from kontext.evaluate.pixels import Images, change_mask, cosine_distance, masked_mae, psnr
from kontext.models.autoencoder import Autoencoder
from kontext.models.features import FeatureNet
from kontext.models.transformer import FluxTransformer
from kontext.sample.codec import PictureCodec
from kontext.sample.edits import EditSampler
from schemas.recipes import Recipe

MAX_MAE_RATIO = 0.7
_SHOWN = 6  # rows of the sheet per category
_AT_ONCE = 128


def scores_and_samples(
    pack: Pack,
    recipe: Recipe,
    data: PairTensors,
    codec: Autoencoder,
    models: Mapping[str, FluxTransformer],
    features: FeatureNet | None,
) -> tuple[dict[str, Any], bytes]:
    """Success per category of teacher and student, the codec's PSNR, and a PNG sheet.

    The sheet's columns: context, teacher, student, target.
    """
    chosen = _chosen(data, recipe)
    context, target = (pack.images[bank[chosen].numpy()] for bank in (data.context, data.target))
    steps = {"flow": recipe.evaluate.teacher_steps, "student": recipe.distill.student_steps}
    encoded = data.latents[data.context[chosen]] if recipe.evaluate.keep_detail else None
    outputs = {
        name: decoded(codec, _edits(model, data, chosen, steps[name], recipe), context, encoded)
        for name, model in models.items()
    }
    goal = data.latents[data.target[chosen]]
    ceiling, plain = decoded(codec, goal, context, encoded), decoded(codec, goal)
    mask = change_mask(context, target, recipe.evaluate.mask_threshold)
    category = data.category[chosen].numpy()
    scores: dict[str, Any] = {}
    for name, output in {**outputs, "ceiling": ceiling}.items():
        good = succeeded(output, context, target, mask, features)
        scores[name] = {
            word: float(good[category == number].mean())
            for number, word in enumerate(data.categories)
            if (category == number).any()
        }
    found = {
        "items": len(chosen),
        "success": scores,
        "steps": steps,
        "features": "EfficientNet-Lite0" if features is not None else "none: pixels alone",
        "codec_psnr_db": float(psnr(target, plain).mean()),
        "keep_detail": encoded is not None,
    }
    return found, _sheet(category, [context, outputs["flow"], outputs["student"], target])


def succeeded(
    output: Images,
    context: Images,
    target: Images,
    mask: NDArray[np.bool_],
    features: FeatureNet | None,
) -> NDArray[np.bool_]:
    """Edit success [N]: error over the mask < 0.7 x the context's, and features nearer."""
    error, before = masked_mae(output, target, mask), masked_mae(context, target, mask)
    pixels = np.asarray(error < MAX_MAE_RATIO * before)
    if features is None:
        return pixels
    of_target = _pooled(features, target)
    apart = cosine_distance(_pooled(features, output), of_target)
    untouched = cosine_distance(_pooled(features, context), of_target)
    return np.asarray(pixels & (apart < untouched))


def decoded(
    codec: Autoencoder,
    latents: Tensor,
    context: Images | None = None,
    encoded: Tensor | None = None,
) -> Images:
    """uint8 [N, H, W, 3] of latents [N, C, h, w].

    With `context` images and their latents `encoded`, their own detail is restored.
    """
    return PictureCodec(codec).pictures(latents, () if context is None else context, encoded)


def png(rgb: NDArray[np.uint8]) -> bytes:
    """A PNG of uint8 [H, W, 3] by zlib alone."""
    height, width = rgb.shape[:2]
    rows = np.concatenate((np.zeros((height, 1), np.uint8), rgb.reshape(height, -1)), axis=1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows.tobytes(), 6))
        + chunk(b"IEND", b"")
    )


def _chosen(data: PairTensors, recipe: Recipe) -> Tensor:
    """At most `evaluate.items_per_category` edits of each category."""
    draw = torch.Generator().manual_seed(recipe.evaluate.seed)
    edits, parts = data.plain_edits(), []
    for number in range(len(data.categories)):
        pool = edits[data.category[edits] == number]
        order = torch.randperm(len(pool), generator=draw)
        parts.append(pool[order[: recipe.evaluate.items_per_category]])
    return torch.cat(parts)


def _edits(
    model: FluxTransformer, data: PairTensors, pairs: Tensor, steps: int, recipe: Recipe
) -> Tensor:
    sampler = EditSampler(data, steps, 1.0, recipe.evaluate.seed)
    return torch.cat([sampler.edits(model, part) for part in torch.split(pairs, _AT_ONCE)])


@torch.no_grad()
def _pooled(features: FeatureNet, images: Images) -> NDArray[np.float32]:
    device = next(features.parameters()).device
    out = []
    for part in torch.split(torch.from_numpy(images), _AT_ONCE):
        scaled = part.permute(0, 3, 1, 2).to(device).float() / 255
        out.append(features.pooled(scaled, None).cpu())
    pooled: NDArray[np.float32] = torch.cat(out).numpy()
    return pooled


def _sheet(category: NDArray[np.int64], columns: list[Images]) -> bytes:
    rows = np.concatenate([np.flatnonzero(category == n)[:_SHOWN] for n in np.unique(category)])
    lines = [np.concatenate([images[row] for images in columns], axis=1) for row in rows]
    return png(np.concatenate(lines))
