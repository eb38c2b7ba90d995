"""Layers with a quantised weight: their products and gradients, and what they keep for these."""

from copy import deepcopy
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from kontext.models.files.weights import Entry, state_entries
from kontext.models.qlora.linear import (
    QuantizedLinear,
    full_weight,
    quantize_layers,
    quantized_entries,
)
from kontext.models.qlora.schemes import Scheme
from kontext.parallel.shard import fill

SCHEMES = get_args(Scheme)


def pair(scheme: Scheme, dtype: torch.dtype = torch.float32) -> tuple[nn.Sequential, nn.Sequential]:
    """Two layers with quantised weights, and the same in full: what their weights stand for."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 32, bias=False)).to(dtype)
    with torch.device("meta"):
        made = deepcopy(plain).to("meta")
    quantize_layers(made, ["0", "2"], scheme)
    fill(made, quantized_entries(state_entries(plain.state_dict()), ["0", "2"], scheme), CPU)
    for name in ("0", "2"):
        layer = made.get_submodule(name)
        assert isinstance(layer, QuantizedLinear)
        plain.get_submodule(name).weight = nn.Parameter(full_weight(layer, scheme, dtype))
    return made, plain.requires_grad_(False)


CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_products_and_gradients_are_those_of_the_full_weight(
    scheme: Scheme, dtype: torch.dtype
) -> None:
    made, plain = pair(scheme, dtype)
    found = []
    for model in (made, plain):
        x = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
        x.requires_grad_(True)
        out = model(x)
        out.square().sum().backward()
        found.append((out, x.grad))
    for own, wanted in zip(*found, strict=True):
        torch.testing.assert_close(own, wanted)
        assert own.dtype == dtype
    assert all(p.grad is None for p in made.parameters())


def test_autocast_says_what_dtype_they_are_in() -> None:
    made, plain = pair("nf4")
    x = torch.randn(3, 64, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out, wanted = made(x), plain(x)
    assert out.dtype == wanted.dtype == torch.bfloat16
    assert (out - wanted).norm() < 2**-7 * wanted.norm()  # levels and products are rounded here
    out.float().sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.float32


def kept(model: nn.Module, x: Tensor) -> list[Tensor]:
    """What a forward pass keeps for the backward pass."""
    found: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(x)
    return found


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_weight_is_kept_for_the_backward_pass(scheme: Scheme) -> None:
    made, plain = pair(scheme)
    x = torch.randn(3, 64, requires_grad=True)
    # the input of GELU alone
    assert [tuple(t.shape) for t in kept(made, x)] == [(3, 96)]
    assert sum(t.numel() for t in kept(plain, x)) > 64 * 96 + 96 * 32


def test_torchaos_layers_keep_the_weight_or_refuse_it() -> None:
    """Why the layers are our own: where this fails, look whether torchao's will do."""
    quantization = pytest.importorskip("torchao.quantization")
    nf4 = pytest.importorskip("torchao.quantization.quantize_.workflows.nf4.nf4_tensor")
    x = torch.randn(3, 64, dtype=torch.bfloat16, requires_grad=True)
    for config in (quantization.Int8WeightOnlyConfig(), quantization.Float8WeightOnlyConfig()):
        layer = nn.Sequential(nn.Linear(64, 96, dtype=torch.bfloat16)).requires_grad_(False)
        quantization.quantize_(layer, config)
        assert any(t.shape == (64, 96) and type(t) is Tensor for t in kept(layer, x))
    with pytest.raises(AssertionError, match="scaler block size"):
        nf4.to_nf4(torch.randn(96, 64), 64, 256)


def test_a_weight_is_read_and_quantised_once() -> None:
    read: list[str] = []
    weight = torch.randn(96, 64)

    def count() -> Tensor:
        read.append("weight")
        return weight

    entry = Entry("a.weight", (96, 64), torch.float32, count)
    bias = Entry("a.bias", (96,), torch.float32, lambda: torch.zeros(96))
    parts = quantized_entries([entry, bias], {"a"}, "nf4")
    assert [part.name for part in parts] == [
        *(
            "a.weight_codes",
            "a.weight_scale",
            "a.weight_scale_step",
            "a.weight_scale_mean",
            "a.weight_levels",
        ),
        "a.bias",
    ]
    for part in parts:
        tensor = part.read()
        assert (tuple(tensor.shape), tensor.dtype) == (part.shape, part.dtype)
    assert read == ["weight"]
    assert parts[1].read().shape == (1, 256) and read == ["weight"] * 2  # again, when asked again
