import logging
from collections.abc import Iterator

import pytest
import torch

from kontext.parallel.attention import (
    KernelError,
    active_kernel,
    attention,
    use_kernel,
)


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
