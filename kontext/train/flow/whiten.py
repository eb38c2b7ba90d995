"""Start a fresh model's text layers with the whitening of its texts: similar texts then differ.

States of a sentence encoder lie close together: their mean and a few directions make up most of
every vector, and "purple" and "blue" differ little from each other. A random first layer keeps it
so. Composed with the whitening of the texts, the layer gives all directions the same variance. Only
weights change: the architecture and the text encoder's output stay as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kontext.data.encoded.pair_tensors import PairTensors, sampled
from kontext.models.flux.transformer import FluxTransformer

_FLOOR = 0.05  # of the mean variance: directions below it are noise and are not blown up


@torch.no_grad()
def whiten_text_inputs(model: FluxTransformer, data: PairTensors) -> None:
    """Compose the first text layers of an untrained model with the whitening of `data`'s texts.

    The empty prompt is among them; padding, which is zero, is not.
    """
    tokens = sampled(data.text_tokens).flatten(0, 1)
    _compose(model.txt_in, tokens[tokens.abs().sum(1) > 0])
    first = model.vector_in.in_layer
    for layer in (first, model.vector_in.out_layer):
        nn.init.xavier_uniform_(layer.weight)  # of the usual 0.02, texts would hardly be heard
    _compose(first, sampled(data.text_pooled))


def _compose(layer: nn.Linear, vectors: Tensor) -> None:
    """W, b -> W S, b - W S m, where S (x - m) has about unit variance in all directions."""
    if len(vectors) < 2:
        return
    mean, whitening = whitening_of(vectors)
    weight = layer.weight @ whitening.to(layer.weight)
    layer.weight.copy_(weight)
    layer.bias.sub_(weight @ mean.to(weight))


def whitening_of(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [D] and symmetric whitening matrix [D, D] (ZCA) of at least two vectors [K, D]."""
    variance, directions = torch.linalg.eigh(torch.cov(vectors.T))
    floor = (_FLOOR * variance.mean()).clamp(min=1e-12)
    scale = (variance.clamp(min=0) + floor).rsqrt()
    return vectors.mean(0), (directions * scale) @ directions.T
