"""When to compute in bf16: one answer for every frozen network."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def bf16_supported(device: torch.device | str) -> bool:
    """True where bf16 is faster than fp32: CPUs with native bf16 arithmetic, and recent GPUs."""
    kind = torch.device(device).type
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if kind != "cpu":
        return False
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def autocast(device: torch.device | str) -> AbstractContextManager[Any]:
    """bf16 autocast where `bf16_supported`, else nothing: fp16 on a CPU is never faster."""
    if not bf16_supported(device):
        return nullcontext()
    return torch.autocast(torch.device(device).type, torch.bfloat16)
