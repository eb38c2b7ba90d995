from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kontext.parallel import attention as module
from kontext.parallel.attention import (
    KernelError,
    active_kernel,
    attention,
    packed_attention,
    use_kernel,
)
from kontext.parallel.documents import Documents


@pytest.fixture(autouse=True)
def _default_kernel() -> Iterator[None]:
    yield
    use_kernel("auto")


def qkv(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, n, 8, generator=g).to(dtype) for n in (5, 7, 7)]


def plain(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    scores = q.double() @ k.double().transpose(2, 3) / 8**0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return (scores.softmax(-1) @ v.double()).transpose(1, 2).reshape(2, 5, 24).float()


@pytest.mark.parametrize("kernel", ["auto", "sdpa", "math"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
def test_every_cpu_kernel_gives_the_formula(kernel: str, dtype: torch.dtype, masked: bool) -> None:
    use_kernel(kernel)
    q, k, v = qkv(dtype)
    mask = None
    if masked:
        mask = torch.rand(2, 1, 5, 7, generator=torch.Generator().manual_seed(1)) < 0.7
        mask[..., 0] = True
    error = (attention(q, k, v, mask).float() - plain(q, k, v, mask)).abs().max()
    assert error < (1e-5 if dtype == torch.float32 else 0.03)


def test_gradients_of_math_and_sdpa_agree() -> None:
    grads = []
    for kernel in ("math", "sdpa"):
        use_kernel(kernel)
        tensors = [x.requires_grad_(True) for x in qkv()]
        attention(*tensors).square().sum().backward()
        grads.append([x.grad for x in tensors])
    for a, b in zip(*grads, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_the_active_kernel_is_named() -> None:
    assert active_kernel("cpu").startswith("math (bf16")
    assert use_kernel("sdpa").startswith("sdpa:")
    assert use_kernel("math") == "math"


@pytest.mark.parametrize("kernel", ["flash2", "fa3", "fa4"])
def test_a_kernel_that_is_not_there_is_an_error_or_a_recorded_fallback(
    kernel: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(KernelError, match=kernel):
        use_kernel(kernel, "cpu")
    with caplog.at_level(logging.WARNING, "kontext"):
        name = use_kernel(kernel, "cpu", fallback=True)
    assert f"fallback: attention kernel '{kernel}'" in name
    assert active_kernel("cpu") == name
    assert kernel in caplog.text
    q, k, v = qkv()
    assert (attention(q, k, v) - plain(q, k, v)).abs().max() < 1e-5


def test_unknown_kernels_are_refused() -> None:
    with pytest.raises(KernelError, match="unknown attention kernel 'fast'"):
        use_kernel("fast")


def varlen(q: Any, k: Any, v: Any, cu_q: Any, cu_k: Any, max_q: int, max_k: int) -> torch.Tensor:
    """A variable-length kernel in plain PyTorch, [L, H, D]."""
    out = torch.empty_like(q)
    edges = zip(cu_q.tolist(), cu_q.tolist()[1:], cu_k.tolist(), cu_k.tolist()[1:], strict=False)
    for q0, q1, k0, k1 in edges:
        assert q1 - q0 <= max_q
        assert k1 - k0 <= max_k
        heads = (x.transpose(0, 1).double() for x in (q[q0:q1], k[k0:k1], v[k0:k1]))
        hq, hk, hv = heads
        weights = (hq @ hk.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1)
        out[q0:q1] = (weights @ hv).transpose(0, 1).to(q.dtype)
    return out


runs = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), min_size=1, max_size=6)


@settings(max_examples=25, deadline=None)
@given(runs, runs)
def test_packed_rows_see_their_own_document(
    query_runs: list[tuple[int, int]], more: list[tuple[int, int]]
) -> None:
    key_runs = query_runs + more
    documents = Documents.of(query_runs, key_runs, 3)
    lq, lk = (sum(n for _, n in side) for side in (query_runs, key_runs))
    if not lq:
        return
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, n, 8, generator=g) for n in (lq, lk, lk))
    by_name = [d for d, n in key_runs for _ in range(n)]
    mask = torch.tensor([[a == b for b in by_name] for a in by_name[:lq]])[None, None]
    expected = attention(q, k, v, mask)
    assert torch.equal(documents.mask, mask)
    assert (attention(q, k, v, documents) - expected).abs().max() < 1e-6
    assert (packed_attention(q, k, v, documents, varlen) - expected).abs().max() < 1e-5


def test_packed_rows_are_one_row_and_their_kernel_is_named() -> None:
    with pytest.raises(ValueError, match="one row"):
        packed_attention(*qkv(), Documents.of([(0, 5)], [(0, 7)], 1), varlen)
    assert active_kernel("cpu", packed=True).startswith("mask, ")


def test_a_flash_kernel_chosen_by_name_never_turns_into_a_mask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module._choice, "name", "fa3")
    q, k, v = (x[:1] for x in qkv())
    with pytest.raises(KernelError, match="'fa3' packs no sequences in float32 on cpu"):
        attention(q, k, v, Documents.of([(0, 5)], [(0, 7)], 1))
