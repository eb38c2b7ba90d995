"""The model's velocity for a noised batch, and the parts of a rectified flow's loss.

x_t = (1 - t) x + t e; the model predicts the velocity e - x. Targets and contexts are latents,
packed into tokens of 2 x 2; every method that trains or asks the transformer uses these functions.
"""

from dataclasses import replace

import torch
from torch import Tensor

from kontext.data.encoded.pair_tensors import Batch
from kontext.models.flux.sequence import pack, sequence_ids
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.precision import autocast

_CHANGED = 0.3


def velocity(
    model: FluxTransformer, noisy: Tensor, batch: Batch, t: Tensor, guidance: Tensor | None = None
) -> Tensor:
    """The model's velocity for packed noisy targets.

    Args:
        noisy: packed noisy targets [B, N, 4C].
        batch: gives context, text and the grid; its target is not looked at.
        t: noise levels [B] in [0, 1].
        guidance: strength [B] for a model with a guidance embedding; 1 (no guidance) by default.

    Returns:
        [B, N, 4C] float32.
    """
    guidance = unit_guidance(model, t) if guidance is None else guidance
    inputs = (*with_contexts(noisy, batch), batch.tokens, batch.pooled, t)
    with autocast(noisy.device):
        predicted: Tensor = model(*inputs, target_length=noisy.shape[1], guidance=guidance).float()
    return predicted


def guided_velocity(
    model: FluxTransformer,
    noisy: Tensor,
    batch: Batch,
    t: Tensor,
    guidance: Tensor,
    empty: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """Velocity [B, N, 4C] under classifier-free `guidance` [B] on the text, and without it.

    Args:
        empty: the encoded empty prompt, states [1, L, D] and pooled [1, P]. The context stays.
    """
    tokens, pooled = (part.to(noisy.device) for part in empty)
    none = replace(
        batch, tokens=tokens.expand_as(batch.tokens), pooled=pooled.expand_as(batch.pooled)
    )
    plain = velocity(model, noisy, batch, t)
    without = velocity(model, noisy, none, t)
    return without + guidance.view(-1, 1, 1) * (plain - without), plain


def with_contexts(noisy: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Packed targets [B, N, 4C] followed by the batch's contexts, and the positions of all."""
    grid, *grids = [(z.shape[2] // 2, z.shape[3] // 2) for z in (batch.target, *batch.contexts)]
    tokens = torch.cat((noisy, *map(pack, batch.contexts)), dim=1)
    return tokens, sequence_ids(grid, grids, device=noisy.device)


def unit_guidance(model: FluxTransformer, like: Tensor) -> Tensor | None:
    """Strength 1 (no guidance) as [B] for a model with a guidance embedding; else None."""
    return torch.ones_like(like) if model.shape.guidance_embed else None


def add_noise(clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """(1 - t) x + t e for packed [B, N, D] and t [B]."""
    return torch.lerp(clean, noise, t.view(-1, 1, 1))


def change_weights(target: Tensor, context: Tensor, weight: float) -> Tensor:
    """Loss weights [B, N, 1] of the target's tokens: 1 + weight where the edit changes them.

    A token is changed where its latents [B, C, h, w] differ from the context's by more than 0.3 of
    their unit spread, as a root mean square. Each sample's weights have mean 1, so that the option
    shifts attention between tokens, not between samples or noise levels. All weigh the same where
    the context has another size than the target: then no token of one lies on one of the other.
    """
    if context.shape != target.shape:
        tokens = target.shape[2] * target.shape[3] // 4
        return torch.ones(len(target), tokens, 1, device=target.device)
    apart = (pack(target) - pack(context)).square().mean(dim=-1, keepdim=True)
    weights = 1 + weight * (apart > _CHANGED**2).float()
    return weights / weights.mean(dim=1, keepdim=True)
