"""Train the small CLIP's heads with open_clip's contrastive loss, and measure retrieval."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kontext.errors import WeightsError
from kontext.models.features.clip import ClipShape, SmallClip
from kontext.models.precision import autocast

_LR, _WEIGHT_DECAY, _WARMUP = 1e-3, 0.05, 20
_SCORES = 1 << 26  # of images and texts, in memory at once


@dataclass(frozen=True)
class ClipData:
    """Frozen features and which text describes which image."""

    images: Tensor  # [M, image_dim]
    texts: Tensor  # [K, text_dim]
    texts_of: Sequence[NDArray[np.int64]]  # N arrays of rows into texts, none empty
    rows: NDArray[np.int64] | None = None  # of the N images that are trained on; None: all M


def train_clip(
    data: ClipData, *, steps: int, batch: int, seed: int, shape: ClipShape | None = None
) -> tuple[SmallClip, list[float]]:
    """Train the heads; returns the model in eval mode and the loss of every step.

    Each batch has distinct images and distinct texts: an equal text elsewhere in the batch would
    be a false negative.
    """
    try:
        from open_clip.loss import ClipLoss
    except ImportError as error:
        raise WeightsError("training CLIP heads needs: pip install open-clip-torch") from error
    shape = shape or ClipShape(image_dim=data.images.shape[1], text_dim=data.texts.shape[1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SmallClip(shape).train()
        optimizer = torch.optim.AdamW(model.parameters(), _LR, weight_decay=_WEIGHT_DECAY)
        loss_of = ClipLoss()
        rng = np.random.Generator(np.random.PCG64(seed))
        losses = []
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = _LR * _schedule(step, steps)
            places, text_rows = _draw(data.texts_of, batch, rng)
            image_rows = places if data.rows is None else data.rows[places].tolist()
            with autocast(data.images.device):
                out = model(data.images[image_rows], data.texts[text_rows])
            loss = loss_of(**{name: value.float() for name, value in out.items()})
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                model.logit_scale.clamp_(0, math.log(100))  # as open_clip's training loop does
            losses.append(float(loss.detach()))
    return model.eval().requires_grad_(False), losses


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up, then cosine to zero."""
    warm = min(1.0, (step + 1) / _WARMUP)
    return warm * 0.5 * (1 + math.cos(math.pi * step / max(1, steps)))


def _draw(
    texts_of: Sequence[NDArray[np.int64]], batch: int, rng: np.random.Generator
) -> tuple[list[int], list[int]]:
    images: list[int] = []
    texts: list[int] = []
    seen: set[int] = set()
    for image in rng.permutation(len(texts_of)):
        text = int(rng.choice(texts_of[image]))
        if text not in seen:
            seen.add(text)
            images.append(int(image))
            texts.append(text)
            if len(images) == batch:
                break
    return images, texts


def retrieval(
    image_embeddings: NDArray[np.float32],
    names: Sequence[str],
    text_of: Mapping[str, int],
    text_embeddings: NDArray[np.float32],
) -> dict[str, float]:
    """Image-to-text recall among all of `text_of`.

    Args:
        image_embeddings: [N, D], normalised.
        names: the right text of each image.
        text_of: text -> row of `text_embeddings` [K, D].

    Returns:
        `r_at_1`, `r_at_5` (0 to 1) and `candidates` (K).
    """
    right = np.array([text_of[name] for name in names])
    step = max(1, _SCORES // len(text_embeddings))
    parts = [slice(low, low + step) for low in range(0, len(right), step)]
    ranks = [_rank(image_embeddings[part] @ text_embeddings.T, right[part]) for part in parts]
    rank = np.concatenate(ranks)
    return {
        "r_at_1": float((rank < 1).mean()),
        "r_at_5": float((rank < 5).mean()),
        "candidates": float(len(text_embeddings)),
    }


def _rank(scores: NDArray[np.float32], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place [N] of each row's right column when scores [N, K] fall, equal ones in order."""
    own = np.take_along_axis(scores, right[:, None], axis=1)
    before = np.arange(scores.shape[1]) < right[:, None]
    found: NDArray[np.int64] = ((scores > own) | ((scores == own) & before)).sum(1)
    return found
