"""The one attention function, and the choice of the kernel behind it.

`auto` (the default) is PyTorch's scaled_dot_product_attention, except for short half-precision
sequences on CPU, where batched matrix products are faster: 384 heads of 52 tokens, forward and
backward on one core, took 15 ms that way and 52 ms by the fused kernel (PyTorch 2.14.1).

`use_kernel` chooses every other kernel by name, and first runs it once against the plain formula.
One that is not available is an error, or, with `fallback=True`, a logged and recorded choice of
`auto`. `active_kernel` says what runs. The flash paths have not been run on a CUDA card yet.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import (
    SDPBackend,
    activate_flash_attention_impl,
    current_flash_attention_impl,
    restore_flash_attention_impl,
    sdpa_kernel,
)

from kontext.errors import KontextError
from kontext.parallel.device_kind import kind_of, rehearsed_for
from kontext.parallel.ulysses import exchange_and_attend

Kernel = Literal["auto", "sdpa", "math", "flash2", "fa3", "fa4"]
_FLASH = ("flash2", "fa3", "fa4")
_CPU_MATH_LENGTH = 1024
_log = logging.getLogger("kontext")


class KernelError(KontextError):
    """The attention kernel asked for does not run here."""


@dataclass
class _Choice:
    name: Kernel = "auto"
    flash2: Callable[..., Any] | None = None
    fallback_from: str = ""


_choice = _Choice()


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention scaled by 1/sqrt(D).

    Args:
        q: [B, H, Lq, D].
        k: [B, H, Lk, D]. v: the same.
        mask: bool, broadcastable to [B, H, Lq, Lk], True = may attend. Flash kernels
            take no mask, so such a call is always served by SDPA or the plain formula.

    Returns:
        [B, Lq, H*D].
    """
    if mask is None:
        return exchange_and_attend(_chosen, q, k, v)
    return _chosen(q, k, v, mask)


def _chosen(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """`attention` by the kernel in use, over the tokens of this process."""
    name = "auto" if rehearsed_for() else _choice.name
    if name == "flash2" and mask is None:
        assert _choice.flash2 is not None
        out = _choice.flash2(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return out.flatten(2)  # type: ignore[no-any-return]
    if name in ("fa3", "fa4") and mask is None:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            out = F.scaled_dot_product_attention(q, k, v)
    elif name == "math" or (name == "auto" and _prefers_math(q, k)):
        out = _math(q, k, v, mask)
    else:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2).flatten(2)


def _prefers_math(q: Tensor, k: Tensor) -> bool:
    return (
        kind_of(q.device) == "cpu"
        and q.dtype != torch.float32
        and max(q.shape[2], k.shape[2]) <= _CPU_MATH_LENGTH
    )


def _math(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    b, h, lq, d = q.shape
    lk = k.shape[2]
    q3, k3, v3 = q.reshape(b * h, lq, d), k.reshape(b * h, lk, d), v.reshape(b * h, lk, d)
    zero = q.new_zeros(()).expand(1, 1, 1)
    scores = torch.baddbmm(zero, q3, k3.transpose(1, 2), beta=0, alpha=d**-0.5)
    if mask is not None:
        scores = scores.view(b, h, lq, lk).masked_fill(~mask, float("-inf")).view(b * h, lq, lk)
    return torch.bmm(scores.softmax(-1), v3).view(b, h, lq, d)


def use_kernel(name: str, device: torch.device | str = "cpu", *, fallback: bool = False) -> str:
    """Use the kernel `name` in the whole process, after checking it against the plain formula.

    Args:
        name: auto, sdpa, math, flash2 (the flash-attn package), fa3 or fa4 (through PyTorch).
        device: where it will run.
        fallback: if it is not available, warn, record it and use `auto`.

    Returns:
        `active_kernel(device)`; in a rehearsal, which always takes SDPA, `name`.

    Raises:
        KernelError: unknown name, or not available and no fallback wanted.
    """
    if name not in get_args(Kernel):
        raise KernelError(f"unknown attention kernel '{name}' ({', '.join(get_args(Kernel))})")
    if rehearsed_for():
        return name  # numbers that are not there cannot be compared
    _reset()
    try:
        _activate(name, torch.device(device))  # type: ignore[arg-type]
    except KernelError as error:
        _reset()
        if not fallback:
            raise
        _choice.fallback_from = str(error)
        _log.warning("%s; using 'auto' instead", error)
    return active_kernel(device)


def _reset() -> None:
    _choice.name, _choice.fallback_from = "auto", ""
    _choice.flash2 = None
    if current_flash_attention_impl() is not None:
        restore_flash_attention_impl()


def _activate(name: Kernel, device: torch.device) -> None:
    if name in _FLASH and device.type != "cuda":
        raise KernelError(f"attention kernel '{name}' needs a CUDA device, not {device.type}")
    try:
        if name == "flash2":
            from flash_attn import flash_attn_func

            _choice.flash2 = flash_attn_func
        elif name in ("fa3", "fa4"):
            activate_flash_attention_impl(name.upper())
        _choice.name = name
        _verify(device)
    except (ImportError, RuntimeError, ValueError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise KernelError(f"attention kernel '{name}' does not run here: {first_line}") from error


def _verify(device: torch.device) -> None:
    """Run the chosen kernel on a small problem and compare with the formula."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(1, 2, 128, 64, generator=generator).to(device, torch.bfloat16) for _ in range(3)
    )
    expected = _math(q.float(), k.float(), v.float(), None).transpose(1, 2).flatten(2)
    error = (attention(q, k, v).float() - expected).abs().max().item()
    if error > 0.05:
        raise RuntimeError(f"its result differs from the plain formula by {error:.3f}")


def active_kernel(device: torch.device | str = "cpu") -> str:
    """What unmasked attention runs on `device`, e.g. `sdpa:flash` or `fa3`, for manifests."""
    if _choice.name not in ("auto", "sdpa"):
        return _choice.name
    kind = torch.device(device).type
    sdpa = f"sdpa:{_sdpa_backend(kind)}"
    if _choice.name == "auto" and kind == "cpu":
        sdpa = f"math (bf16, up to {_CPU_MATH_LENGTH} tokens), else {sdpa}"
    if _choice.fallback_from:
        sdpa += f" (fallback: {_choice.fallback_from})"
    return sdpa


def _sdpa_backend(device: str) -> str:
    q = torch.empty(1, 2, 256, 64, device=device, dtype=torch.bfloat16)
    return SDPBackend(torch._fused_sdp_choice(q, q, q)).name.lower().removesuffix("_attention")
