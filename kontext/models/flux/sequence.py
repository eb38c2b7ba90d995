"""Latents as token sequences: packing, position ids and rotary tables, as FLUX.1 has them.

Order inside a token is channel-major (c, row, column); order along the sequence is row-major;
images follow each other as [target | context 1 | … | context N]. The first position axis tells
them apart: 0 for the target, k for context k. Text positions are all zero.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def pack(latents: Tensor) -> Tensor:
    """[B, C, H, W] -> tokens [B, (H/2)(W/2), 4C]. H and W must be even."""
    b, c, h, w = latents.shape
    if h % 2 or w % 2:
        raise ValueError(f"latents of {h}x{w} cannot be packed: both sides must be even")
    x = latents.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(b, (h // 2) * (w // 2), c * 4)


def unpack(tokens: Tensor, h: int, w: int) -> Tensor:
    """tokens [B, h*w, 4C] -> latents [B, C, 2h, 2w]. `h`, `w` count tokens, not latent pixels."""
    b, n, d = tokens.shape
    if n != h * w or d % 4:
        raise ValueError(f"{n} tokens of {d} channels do not make a {h}x{w} grid")
    x = tokens.reshape(b, h, w, d // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(b, d // 4, h * 2, w * 2)


def image_ids(
    h_tokens: int, w_tokens: int, t: int = 0, device: torch.device | str | None = None
) -> Tensor:
    """Positions (t, row, column) of one image's tokens, [h*w, 3] float32. Target t=0, context k."""
    rows, columns = (
        torch.arange(count, dtype=torch.float32, device=device) for count in (h_tokens, w_tokens)
    )
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack((torch.full_like(row, t), row, column), dim=-1).view(-1, 3)


def sequence_ids(
    target: tuple[int, int],
    contexts: Sequence[tuple[int, int]] = (),
    device: torch.device | str | None = None,
) -> Tensor:
    """Positions of [target | contexts], each given as (rows, columns) in tokens: [N, 3]."""
    grids = [target, *contexts]
    return torch.cat([image_ids(h, w, t, device) for t, (h, w) in enumerate(grids)])


def rope(ids: Tensor, axes_dim: Sequence[int], theta: int) -> tuple[Tensor, Tensor]:
    """Rotary tables of positions `ids` [..., N, 3]: cos and sin, each [..., N, sum(axes_dim)/2].

    Entry i turns the interleaved channel pair (2i, 2i+1). Angles are computed in float32, as in
    BFL's reference (diffusers uses float64: the last bits differ).
    """
    angles = []
    for axis, dim in enumerate(axes_dim):
        scale = torch.arange(0, dim, 2, dtype=torch.float32, device=ids.device) / dim
        angles.append(ids[..., axis, None].float() * (1.0 / theta**scale))
    angle = torch.cat(angles, dim=-1)
    return angle.cos(), angle.sin()
