"""Operations that a step takes, computed exactly from the shape, and that devices reach.

Counted are matrix products and attention's two products, a multiplication and an addition each,
as `torch.utils.flop_counter` counts them; norms, activations and softmax are not. `step_flops`
counts what `FluxTransformer` computes, which leaves out unused outputs of the last block. Published
tables count every block on every token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from schemas.sections.models import TransformerShape

CHANGES_RESULTS = False  # counts operations

_SINUSOID = 256
# dense bf16 operations per second, from the makers' data sheets; longer names first
PEAKS = {
    "GB200": 2.5e15,
    "B200": 2.25e15,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "MI300X": 1307e12,
}


@dataclass(frozen=True)
class Flops:
    """Operations of a forward pass."""

    linear: int = 0
    attention: int = 0
    frozen_inputs: int = 0  # of linear layers whose inputs need no gradient

    @property
    def total(self) -> int:
        """Operations of the forward pass."""
        return self.linear + self.attention

    @property
    def training(self) -> int:
        """Forward and backward without recomputation: two more products for every forward one."""
        return 3 * self.total - self.frozen_inputs

    @property
    def of_adapters(self) -> int:
        """Forward and backward where weights are frozen: their products have no second gradient.

        What small adapters beside them take is left out.
        """
        return 2 * self.linear + 3 * self.attention - self.frozen_inputs

    def __add__(self, other: Flops) -> Flops:
        return Flops(
            self.linear + other.linear,
            self.attention + other.attention,
            self.frozen_inputs + other.frozen_inputs,
        )

    def __mul__(self, times: int) -> Flops:
        return Flops(times * self.linear, times * self.attention, times * self.frozen_inputs)


@dataclass(frozen=True)
class Tokens:
    """Number of tokens of one sample; `context` is that of all its contexts together."""

    text: int
    target: int
    context: int = 0

    @property
    def count(self) -> int:
        """All of them."""
        return self.text + self.target + self.context


def step_flops(
    shape: TransformerShape, tokens: Tokens, batch: int = 1, *, cache: bool = False
) -> Flops:
    """Forward of one step of `FluxTransformer`.

    Args:
        tokens: of each of the `batch` samples.
        cache: the contexts' keys and values come from a cache (`shape.cached_context` only).
    """
    if cache and not shape.cached_context:
        raise ValueError("this shape caches no contexts: cached_context is off")
    apart = shape.cached_context and not cache and tokens.context > 0
    levels = 2 if apart else 1
    main, own = tokens.text + tokens.target, tokens.context if apart else 0
    every = main + tokens.context
    images = tokens.target + (0 if cache else tokens.context)
    pairs = (main if apart or cache else every) * every + own**2
    last_pairs = tokens.target * every
    doubles, singles = shape.depth, shape.depth_single_blocks
    blocks = _embedders(shape, tokens.text, images, levels)
    blocks += _double(shape, tokens.text + images, levels, pairs) * doubles
    if singles:
        blocks += _single(shape, tokens.text + images, levels, pairs) * (singles - 1)
        blocks += _single(shape, tokens.text + images, levels, last_pairs, tokens.target)
    return (blocks + _final(shape, tokens.target, levels)) * batch


def cache_flops(shape: TransformerShape, context: int, batch: int = 1) -> Flops:
    """Forward of `FluxTransformer.context_cache`: once per edit."""
    total = _embedders(shape, 0, context, 1)
    total += _double(shape, context, 1, context**2) * shape.depth
    total += _single(shape, context, 1, context**2) * shape.depth_single_blocks
    return total * batch


def peak_of(name: str, products: torch.dtype) -> float | None:
    """Peak FLOP/s of a device by its driver's name; None where no data sheet is listed."""
    if products != torch.bfloat16:
        return None
    return next((peak for known, peak in PEAKS.items() if known in name), None)


def peak_flops(device: torch.device, products: torch.dtype) -> float | None:
    """Peak FLOP/s of `device` for matrix products of dtype `products`; None where unknown."""
    if device.type != "cuda":
        return None
    return peak_of(torch.cuda.get_device_name(device), products)


def utilisation(flops: int, seconds: float, peak: float) -> float:
    """Model FLOPs utilisation: useful operations per second over the card's `peak` per second."""
    return flops / seconds / peak


def _token_weights(shape: TransformerShape) -> int:
    """Weights that a block of either kind applies to a token."""
    hidden = shape.hidden_size
    return 4 * hidden**2 + 2 * hidden * int(hidden * shape.mlp_ratio)


def _attention(shape: TransformerShape, pairs: int) -> int:
    return 4 * shape.hidden_size * pairs


def _embedders(shape: TransformerShape, text: int, images: int, levels: int) -> Flops:
    hidden, guidance = shape.hidden_size, int(shape.guidance_embed)
    first = images * shape.in_channels + text * shape.context_in_dim + shape.vec_in_dim
    first += (levels + guidance) * _SINUSOID
    second = (levels + guidance + 1) * hidden
    return Flops(2 * hidden * (first + second), 0, 2 * hidden * first)


def _double(shape: TransformerShape, tokens: int, levels: int, pairs: int) -> Flops:
    weights = _token_weights(shape) * tokens + 12 * shape.hidden_size**2 * levels
    return Flops(2 * weights, _attention(shape, pairs))


def _single(
    shape: TransformerShape, tokens: int, levels: int, pairs: int, target: int | None = None
) -> Flops:
    """Of a single block; the last one goes on with the `target` tokens alone."""
    own = 3 * shape.hidden_size**2
    rest = (_token_weights(shape) - own) * (tokens if target is None else target)
    return Flops(2 * (own * (tokens + levels) + rest), _attention(shape, pairs))


def _final(shape: TransformerShape, target: int, levels: int) -> Flops:
    hidden = shape.hidden_size
    return Flops(2 * (2 * hidden**2 * levels + target * hidden * shape.in_channels))
