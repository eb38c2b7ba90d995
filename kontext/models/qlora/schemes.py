"""Weights in 8 or 4 bits: which tensors are stored, how they are made, how they are read again.

| scheme | codes | scales | bytes a weight |
|---|---|---|---|
| `int8` | int8, rounded to nearest | float32 per row: its largest weight / 127 | 1 |
| `fp8` | float8_e4m3fn | float32 per row: its largest weight / 448 | 1 |
| `nf4` | 4-bit NormalFloat, two a byte | one per 64 weights, itself in 8 bits | 0.516 |

`nf4` and its double quantisation are QLoRA's (Dettmers et al. 2023, arXiv 2305.14314, section 3):
the scales' distances from their mean are int8 codes, with one float32 step per 256 of them.
"""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kontext.models.files.convert import Shape

Scheme = Literal["int8", "fp8", "nf4"]

BLOCK = 64  # weights that share a scale, of the matrix read row by row
GROUP = 256  # scales that share a step
LARGEST = {"int8": 127.0, "fp8": 448.0}  # codes
# the quantiles of a normal distribution that QLoRA's appendix E lists: 0 and both ends are exact
LEVELS = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
_AT_ONCE = 1 << 16  # blocks: what quantising needs beside the weights stays small


def parts_of(scheme: Scheme, shape: Shape) -> dict[str, tuple[Shape, torch.dtype]]:
    """Shape and dtype of every tensor that is stored for a weight [out, in], by name."""
    rows, columns = shape
    if scheme == "int8":
        return {"weight_codes": (shape, torch.int8), "weight_scale": ((rows, 1), torch.float32)}
    if scheme == "fp8":
        return {
            "weight_codes": (shape, torch.float8_e4m3fn),
            "weight_scale": ((rows, 1), torch.float32),
        }
    blocks = -(-rows * columns // BLOCK)
    groups = -(-blocks // GROUP)
    return {
        "weight_codes": ((blocks, BLOCK // 2), torch.uint8),
        "weight_scale": ((groups, GROUP), torch.int8),
        "weight_scale_step": ((groups, 1), torch.float32),
        "weight_scale_mean": ((1,), torch.float32),
        "weight_levels": ((16,), torch.float32),
    }


def bytes_of(scheme: Scheme, shape: Shape) -> int:
    """What is stored for a weight [out, in]."""
    parts = parts_of(scheme, shape).values()
    return sum(torch.Size(size).numel() * dtype.itemsize for size, dtype in parts)


@torch.no_grad()
def pack(weight: Tensor, scheme: Scheme) -> dict[str, Tensor]:
    """The tensors of `parts_of` for a weight [out, in] of any floating-point dtype.

    Weights that are float8_e4m3fn already stay exactly what they are in `fp8`.
    """
    if scheme == "nf4":
        return _pack_nf4(weight)
    if scheme == "fp8" and weight.dtype == torch.float8_e4m3fn:
        return {
            "weight_codes": weight,
            "weight_scale": weight.new_ones(len(weight), 1, dtype=torch.float32),
        }
    exact = weight.float()
    scale = _or_one(exact.abs().amax(dim=1, keepdim=True) / LARGEST[scheme])
    codes = exact / scale
    kind = torch.float8_e4m3fn
    if scheme == "int8":
        codes, kind = codes.round_().clamp_(-127, 127), torch.int8
    return {"weight_codes": codes.to(kind), "weight_scale": scale}


@torch.no_grad()
def unpack(parts: Mapping[str, Tensor], scheme: Scheme, shape: Shape, dtype: torch.dtype) -> Tensor:
    """The weight [out, in] that stored tensors stand for, in a floating-point `dtype`."""
    if scheme != "nf4":
        return parts["weight_codes"].to(dtype).mul_(parts["weight_scale"])
    codes, count = parts["weight_codes"], torch.Size(shape).numel()
    levels = parts["weight_levels"].to(dtype)
    first, second = levels[:, None].expand(16, 16), levels.expand(16, 16)
    of_bytes = torch.stack((first, second), dim=-1).view(256, 2)
    pairs = F.embedding(codes.int(), of_bytes)  # [blocks, 32, 2]
    weights = pairs.view(len(codes), BLOCK).mul_(_scales(parts, len(codes)))
    return weights.view(-1)[:count].view(shape)


def _pack_nf4(weight: Tensor) -> dict[str, Tensor]:
    flat = weight.float().flatten()
    blocks = F.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    parts = _pack_scales(blocks.abs().amax(dim=1))
    scales = _or_one(_scales(parts, len(blocks)))  # as they will be read: codes make up for them
    levels = torch.tensor(LEVELS, device=weight.device)
    between = (levels[1:] + levels[:-1]) / 2
    codes = torch.empty(len(blocks), BLOCK // 2, dtype=torch.uint8, device=weight.device)
    for start in range(0, len(blocks), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        nearest = torch.bucketize(blocks[some] / scales[some], between, out_int32=True)
        codes[some] = (nearest[:, ::2] * 16 + nearest[:, 1::2]).to(torch.uint8)
    return {"weight_codes": codes, **parts, "weight_levels": levels}


def _pack_scales(scales: Tensor) -> dict[str, Tensor]:
    """Scales [blocks] in 8 bits; the last group is filled up with the mean."""
    mean = scales.mean()
    apart = F.pad(scales - mean, (0, -len(scales) % GROUP)).view(-1, GROUP)
    step = _or_one(apart.abs().amax(dim=1, keepdim=True) / 127)
    codes = (apart / step).round_().to(torch.int8)
    return {"weight_scale": codes, "weight_scale_step": step, "weight_scale_mean": mean.view(1)}


def _scales(parts: Mapping[str, Tensor], blocks: int) -> Tensor:
    """The scales [blocks, 1], float32, of which none is negative."""
    found = parts["weight_scale"] * parts["weight_scale_step"] + parts["weight_scale_mean"]
    return found.clamp_(min=0).view(-1, 1)[:blocks]


def _or_one(scale: Tensor) -> Tensor:
    """Scales to divide by: 1 where all that they are of is zero."""
    return torch.where(scale > 0, scale, torch.ones_like(scale))
