"""What quantising a weight costs, against bounds that follow from the formats."""

from itertools import pairwise
from typing import get_args

import pytest
import torch

from kontext.models.qlora.schemes import (
    BLOCK,
    LARGEST,
    LEVELS,
    Scheme,
    bytes_of,
    pack,
    parts_of,
    unpack,
)

SCHEMES = get_args(Scheme)
SHAPES = ((96, 128), (7, 50), (300, 192))  # blocks and groups of nf4 that are full, and that aren't


def weight(shape: tuple[int, int]) -> torch.Tensor:
    """Rows of very different sizes."""
    draw = torch.Generator().manual_seed(shape[0])
    return torch.randn(shape, generator=draw) * torch.logspace(-3, 1, shape[0])[:, None]


def read(parts: dict[str, torch.Tensor], scheme: Scheme, like: torch.Tensor) -> torch.Tensor:
    return unpack(parts, scheme, tuple(like.shape), torch.float32)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_stored_is_what_was_announced(scheme: Scheme, shape: tuple[int, int]) -> None:
    parts = pack(weight(shape).bfloat16(), scheme)
    said = parts_of(scheme, shape)
    assert {name: (tuple(t.shape), t.dtype) for name, t in parts.items()} == said
    assert sum(t.nbytes for t in parts.values()) == bytes_of(scheme, shape)


def test_bytes_of_a_weight() -> None:
    shape = (12288, 3072)  # FLUX.1's feed-forward
    found = {scheme: bytes_of(scheme, shape) / (shape[0] * shape[1]) for scheme in SCHEMES}
    assert found["int8"] == found["fp8"] == pytest.approx(1 + 4 / 3072)
    assert found["nf4"] == pytest.approx(0.5 + 1 / 64 + 4 / (64 * 256), rel=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_int8_is_off_by_half_a_step_of_its_row(shape: tuple[int, int]) -> None:
    w = weight(shape)
    step = w.abs().amax(dim=1, keepdim=True) / LARGEST["int8"]
    error = (read(pack(w, "int8"), "int8", w) - w).abs()
    assert (error <= step * (0.5 + 1e-4)).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_fp8_is_off_by_half_of_its_last_bit(shape: tuple[int, int]) -> None:
    """Three bits behind the leading one; below 2^-6 steps of 2^-9."""
    w = weight(shape)
    scale = w.abs().amax(dim=1, keepdim=True) / LARGEST["fp8"]
    error = (read(pack(w, "fp8"), "fp8", w) - w).abs()
    assert (error <= torch.maximum(w.abs() / 16, scale * 2**-10) * (1 + 1e-4)).all()


def test_what_is_fp8_already_stays_what_it_is() -> None:
    w = weight((16, 64)).to(torch.float8_e4m3fn)
    assert torch.equal(read(pack(w, "fp8"), "fp8", w), w.float())


@pytest.mark.parametrize("shape", SHAPES)
def test_nf4_is_off_by_half_a_gap_of_its_blocks_scale(shape: tuple[int, int]) -> None:
    w = weight(shape)
    parts = pack(w, "nf4")
    flat = torch.nn.functional.pad(w.flatten(), (0, -w.numel() % BLOCK)).view(-1, BLOCK)
    exact = flat.abs().amax(dim=1)
    held = (
        parts["weight_scale"] * parts["weight_scale_step"] + parts["weight_scale_mean"]
    ).flatten()[: len(flat)]
    off = (parts["weight_scale_step"].expand(-1, 256).flatten()[: len(flat)]) / 2
    assert ((held - exact).abs() <= off * (1 + 1e-4)).all()
    widest = max(high - low for low, high in pairwise(LEVELS))
    error = (read(parts, "nf4", w) - w).abs().flatten()
    bound = (held.clamp(min=0) * widest / 2 + off)[:, None].expand(-1, BLOCK).flatten()
    assert (error <= bound[: w.numel()] * (1 + 1e-4)).all()


def test_nf4_is_no_worse_than_torchaos() -> None:
    nf4 = pytest.importorskip("torchao.quantization.quantize_.workflows.nf4.nf4_tensor")
    w = torch.randn(256, 512, generator=torch.Generator().manual_seed(0)) * 0.02
    theirs = nf4.to_nf4(w, BLOCK, 256).get_original_weight()
    own = read(pack(w, "nf4"), "nf4", w)
    assert (own - w).norm() <= (theirs - w).norm() * 1.001
    assert (own - w).norm() / w.norm() == pytest.approx(0.091, abs=0.003)  # of normal weights


@pytest.mark.parametrize("scheme", SCHEMES)
def test_zeros_stay_zeros_and_bf16_is_the_same_rounded(scheme: Scheme) -> None:
    zeros = torch.zeros(8, BLOCK)
    assert not read(pack(zeros, scheme), scheme, zeros).any()
    w = weight((32, 64))
    w[3] = 0
    parts = pack(w, scheme)
    exact, rounded = (unpack(parts, scheme, (32, 64), d) for d in (torch.float32, torch.bfloat16))
    assert not exact[3].any() and rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=2**-7, atol=0)
