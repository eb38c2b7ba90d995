"""When frozen networks compute in bf16. One rule for all of them."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch

from kontext.parallel.device_kind import kind_of, rehearsed_for

_full: ContextVar[bool] = ContextVar("full_precision", default=False)


def bf16_supported(device: torch.device | str) -> bool:
    """True where bf16 is faster than fp32: CPUs with native bf16 arithmetic, and recent GPUs."""
    kind = kind_of(device)
    if kind == "cuda":
        if rehearsed_for():
            return True
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if kind != "cpu":
        return False
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def compute_dtype(precision: str, device: torch.device | str) -> torch.dtype:
    """The dtype of matrix products for `auto`, `bf16` or `fp32`; `auto` is bf16 where that is fast.

    Raises:
        KeyError: any other name.
    """
    if precision == "auto":
        return torch.bfloat16 if bf16_supported(device) else torch.float32
    return {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]


def products_dtype(held: torch.dtype, precision: str, device: torch.device | str) -> torch.dtype:
    """The dtype of the products of a model whose weights are held in `held`.

    Weights of 16 bits are multiplied as they are; else it is `compute_dtype`.
    """
    return held if held.itemsize == 2 else compute_dtype(precision, device)


def autocast(device: torch.device | str, wanted: bool = True) -> AbstractContextManager[Any]:
    """bf16 autocast where `wanted` and `bf16_supported`: fp16 on a CPU is never faster."""
    if not wanted or _full.get() or not bf16_supported(device):
        return nullcontext()
    return torch.autocast(torch.device(device).type, torch.bfloat16)


@contextmanager
def full_precision(wanted: bool = True) -> Iterator[None]:
    """Inside the block `autocast` does nothing: products are in the weights' own dtype."""
    token = _full.set(wanted)
    try:
        yield
    finally:
        _full.reset(token)
