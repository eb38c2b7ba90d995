"""From a fused qkv projection to attention heads: RMS norm, norm weights and rotary turn.

`split_heads` is the plain formula. On CPU, PyTorch runs it as some twenty passes over memory, so
there it goes through one autograd function with a hand-written backward (about half the time);
under `torch.compile` the plain formula is traced and fused instead.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kontext.parallel.device_kind import kind_of

EPS = 1e-6


class Rotary(NamedTuple):
    """cos and sin per position and channel pair, each [1 or B, L, D/2] float32."""

    cos: Tensor
    sin: Tensor


def split_heads(qkv: Tensor, scale: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of `qkv` [B, L, 3, H, D], each [B, H, L, D] in its dtype.

    Queries and keys are RMS-normalised per head in float32 (eps 1e-6), multiplied by the norm
    weights `scale` ([1 or L, 2, D]: query, key) and turned in interleaved pairs (2i, 2i+1).
    """
    if kind_of(qkv.device) == "cpu" and not torch.compiler.is_compiling():
        q, k, v = _SplitHeads.apply(qkv, scale, rotary.cos, rotary.sin)
        return q, k, v
    return split_heads_reference(qkv, scale, rotary)


def split_heads_reference(
    qkv: Tensor, scale: Tensor, rotary: Rotary
) -> tuple[Tensor, Tensor, Tensor]:
    """`split_heads` in plain operations, for compilers and for comparison."""
    q, k, v = qkv.unbind(2)
    cos, sin = rotary.cos.unsqueeze(2), rotary.sin.unsqueeze(2)

    def turn(x: Tensor, weight: Tensor) -> Tensor:
        normed = F.rms_norm(x.float(), (x.shape[-1],), eps=EPS) * weight.float().unsqueeze(-2)
        even, odd = normed.view(*normed.shape[:-1], -1, 2).unbind(-1)
        turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
        return turned.flatten(-2).to(x.dtype).transpose(1, 2)

    return turn(q, scale[:, 0]), turn(k, scale[:, 1]), v.transpose(1, 2)


class _SplitHeads(torch.autograd.Function):
    """Layouts inside: qk is [B, L, 2, H, D] float32, its complex view has D/2 pairs."""

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, scale: Tensor, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        b, length, _, heads, dim = qkv.shape
        weight = scale.float()[None, :, :, None]
        turn = torch.complex(cos, sin)[:, :, None, None]
        qk = torch.empty(b, length, 2, heads, dim, dtype=torch.float32)
        qk.copy_(qkv[:, :, :2])
        rms = torch.linalg.vector_norm(qk, dim=-1, keepdim=True).square_().div_(dim)
        inverse = rms.add_(EPS).rsqrt_()
        qk.mul_(inverse)
        turned = torch.view_as_complex((qk * weight).view(*qk.shape[:-1], -1, 2)).mul_(turn)
        heads_first = torch.empty(3, b, heads, length, dim, dtype=qkv.dtype)
        heads_first[:2].copy_(torch.view_as_real(turned).flatten(-2).permute(2, 0, 3, 1, 4))
        heads_first[2].copy_(qkv[:, :, 2].transpose(1, 2))
        ctx.save_for_backward(qk, inverse, weight, turn)
        ctx.dtypes = (qkv.dtype, scale.dtype)
        q, k, v = heads_first.unbind(0)
        return q, k, v

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_q: Tensor, grad_k: Tensor, grad_v: Tensor) -> Any:
        qk, inverse, weight, turn = ctx.saved_tensors
        b, length, _, heads, dim = qk.shape
        grad = torch.empty_like(qk)
        grad[:, :, 0].copy_(grad_q.transpose(1, 2))
        grad[:, :, 1].copy_(grad_k.transpose(1, 2))
        torch.view_as_complex(grad.view(*grad.shape[:-1], -1, 2)).mul_(turn.conj())
        product = grad * qk
        grad_scale = product.sum((0, 3), keepdim=True).sum_to_size(weight.shape)
        along = product.mul_(weight).mean(-1, keepdim=True)
        grad.mul_(weight).addcmul_(qk, along, value=-1.0).mul_(inverse)
        out = torch.empty(b, length, 3, heads, dim, dtype=ctx.dtypes[0])
        out[:, :, :2].copy_(grad)
        out[:, :, 2].copy_(grad_v.transpose(1, 2))
        return out, grad_scale[0, :, :, 0].to(ctx.dtypes[1]), None, None
