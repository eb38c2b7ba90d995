"""Pairs as tensors: what the flow and the distillation draw their batches from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

NO_CONTEXT = -1


@dataclass(frozen=True)
class PairTensors:
    """Encoded pairs. P pairs over M images and K texts; the indices point into the banks."""

    latents: Tensor  # [M, C, h, w] float32, normalised
    text_tokens: Tensor  # [K, L, D]
    text_pooled: Tensor  # [K, D]
    target: Tensor  # [P] int64
    context: Tensor  # [P] int64, NO_CONTEXT for text-to-image
    text: Tensor  # [P] int64
    category: Tensor  # [P] int64 into `categories`
    categories: tuple[str, ...]
    empty_text: int  # the encoded empty prompt: the null condition, never zeros

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of an image in tokens."""
        return self.latents.shape[2] // 2, self.latents.shape[3] // 2

    @property
    def target_tokens(self) -> int:
        """Tokens of a target: what the timestep shift depends on."""
        return self.grid[0] * self.grid[1]

    def edits(self) -> Tensor:
        """Indices of pairs with a context."""
        return torch.nonzero(self.context != NO_CONTEXT).flatten()

    def singles(self) -> Tensor:
        """Indices of text-to-image pairs."""
        return torch.nonzero(self.context == NO_CONTEXT).flatten()


@dataclass(frozen=True)
class Batch:
    """One homogeneous batch: all with one context image, or all without."""

    target: Tensor  # [B, C, h, w]
    context: Tensor | None  # [B, C, h, w]
    tokens: Tensor  # [B, L, D]
    pooled: Tensor  # [B, D]

    def select(self, rows: Tensor) -> Batch:
        """The batch reduced to (or reordered by) `rows`."""
        context = None if self.context is None else self.context[rows]
        return Batch(self.target[rows], context, self.tokens[rows], self.pooled[rows])


def gather(data: PairTensors, pairs: Tensor, text: Tensor | None = None) -> Batch:
    """The batch for pair indices [B]; `text` overrides the text indices."""
    chosen = data.text[pairs] if text is None else text
    context = data.context[pairs]
    has_context = bool((context != NO_CONTEXT).all())
    if not has_context and bool((context != NO_CONTEXT).any()):
        raise ValueError("a batch must not mix pairs with and without a context")
    return Batch(
        target=data.latents[data.target[pairs]],
        context=data.latents[context] if has_context else None,
        tokens=data.text_tokens[chosen].float(),
        pooled=data.text_pooled[chosen].float(),
    )


def sampling_weights(
    data: PairTensors, pairs: Tensor, category_weights: Mapping[str, float]
) -> Tensor:
    """Probability of drawing each of `pairs`, so that category shares follow the weights.

    Categories not named weigh 1; inside a category all pairs are equally likely.
    """
    category = data.category[pairs]
    counts = torch.bincount(category, minlength=len(data.categories)).clamp(min=1)
    wanted = torch.tensor([category_weights.get(name, 1.0) for name in data.categories])
    weights = (wanted / counts)[category]
    return weights / weights.sum()
