"""The numerics ledger's lines of a transformer, and of a training on encoded pairs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from kontext.models.flux.heads import EPS
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.lora import adapters, quantized_layers
from kontext.parallel.attention import active_kernel
from kontext.train.flow.timesteps import BASE_TOKENS, MAX_TOKENS, shift_mu
from kontext.train.record.ledger import Ledger, dtype_name, dtype_names
from kontext.train.record.numerics import codec_digest, encoded_lines

if TYPE_CHECKING:
    from kontext.data.encoded.pair_tensors import PairTensors
    from kontext.engine.stage import StageContext


def transformer_ledger(
    model: FluxTransformer,
    target_tokens: Iterable[int],
    products: torch.dtype,
    device: torch.device,
) -> Ledger:
    """The lines of a transformer that trains on, or draws, targets of so many tokens.

    Adapters are not its weights: they are merged into them for the stages that follow. Nor are
    quantised weights, which are held while adapters train.

    Args:
        products: what its matrix products are computed in.
    """
    beside = [p for layer in adapters(model).values() for p in (layer.lora_down, layer.lora_up)]
    own = {id(p) for p in beside}
    quantized = quantized_layers(model)
    own |= {id(p) for m in quantized for name, p in m.named_parameters() if name != "bias"}
    schemes = ", ".join(sorted({str(layer.scheme) for layer in quantized}))
    lengths = sorted({*target_tokens, BASE_TOKENS, MAX_TOKENS})
    shift = model.shape.timestep_shift
    return {
        **{f"shift: mu at {n} target tokens": f"{shift_mu(n, shift):.6f}" for n in lengths},
        "eps: transformer norms": f"{EPS:g}",
        "guidance: mode": "embedded" if model.shape.guidance_embed else "classifier-free",
        "context: mode": "cached" if model.shape.cached_context else "joint",
        "dtype: weights": dtype_names(p.dtype for p in model.parameters() if id(p) not in own),
        **({"dtype: adapters": dtype_names(p.dtype for p in beside)} if beside else {}),
        **({"dtype: adapters' base": schemes} if schemes else {}),
        "dtype: products": dtype_name(products),
        "kernel: attention": active_kernel(device),
        "device": device.type,
    }


def pairs_ledger(
    ctx: StageContext,
    model: FluxTransformer,
    data: PairTensors,
    products: torch.dtype,
    device: torch.device,
) -> Ledger:
    """The lines of a transformer that trains on encoded pairs, with what `encode` wrote of them."""
    return {
        **encoded_lines(ctx),
        **transformer_ledger(model, data.target_tokens, products, device),
        "text: length": str(data.text_tokens.shape[1]),
        "text: dtype": dtype_name(data.text_tokens.dtype),
        "codec: sha256": codec_digest(ctx.inputs["train-autoencoder"]),
    }
