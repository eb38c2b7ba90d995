"""Linear layers with a frozen weight in 8 or 4 bits, for adapters to train beside.

Gradients flow through such a layer, and none is made for it. Nothing of its weight is kept for the
backward pass: that reads the weight again, so at any time one layer's is there in full precision.

The layers are our own, because torchao's (0.18, PyTorch 2.14.1) do not do that for all schemes:
its int8 and float8 weights keep the full-precision weight of every layer for the backward pass,
which is as much memory as bf16 weights take; its NF4 refuses layers whose number of weights is no
multiple of 16,384. `kontext.models.quantize` uses torchao, for inference.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from kontext.models.files.weights import Entry
from kontext.models.qlora.schemes import Scheme, pack, parts_of, unpack


class QuantizedLinear(nn.Linear):
    """A frozen linear layer: `bias`, and in the place of `weight` what its scheme stores.

    It is made without values on its device, which may be meta: see `quantized_entries`.
    """

    def __init__(self, base: nn.Linear, scheme: Scheme) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.bias, self.scheme = base.bias, scheme
        for name, (shape, dtype) in parts_of(scheme, tuple(base.weight.shape)).items():
            empty = torch.empty(shape, dtype=dtype, device=base.weight.device)
            setattr(self, name, nn.Parameter(empty, requires_grad=False))

    def forward(self, input: Tensor) -> Tensor:
        """input W' + bias."""
        return quantized_product(input, self, self.scheme)


def full_weight(layer: nn.Linear, scheme: Scheme, dtype: torch.dtype) -> Tensor:
    """The weight [out, in] of a layer that has the tensors of a scheme as parameters."""
    shape = (layer.out_features, layer.in_features)
    parts = {name: layer.get_parameter(name) for name in parts_of(scheme, shape)}
    return unpack(parts, scheme, shape, dtype)


def quantized_product(input: Tensor, layer: nn.Linear, scheme: Scheme) -> Tensor:
    """input W' + bias in the input's dtype, or in autocast's: [..., in] -> [..., out].

    Nothing of `layer` is saved for the backward pass: its tensors must be there then.
    """
    kind = input.device.type
    if torch.is_autocast_enabled(kind):
        input = input.to(torch.get_autocast_dtype(kind))
    made: Tensor = _Product.apply(input, layer, scheme)
    return made


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, layer: nn.Linear, scheme: Scheme) -> Tensor:
        ctx.layer, ctx.scheme = layer, scheme
        bias = None if layer.bias is None else layer.bias.to(input.dtype)
        return F.linear(input, full_weight(layer, scheme, input.dtype), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient @ full_weight(ctx.layer, ctx.scheme, gradient.dtype), None, None


def quantize_layers(model: nn.Module, names: Iterable[str], scheme: Scheme) -> None:
    """Put layers without values in the place of linear ones, which are named."""
    for name in names:
        base = model.get_submodule(name)
        assert type(base) is nn.Linear, name
        model.set_submodule(name, QuantizedLinear(base, scheme))


def quantized_entries(
    entries: Iterable[Entry], names: Collection[str], scheme: Scheme
) -> list[Entry]:
    """A model's tensors, where the weights of some layers are quantised when they are read."""
    made = []
    for entry in entries:
        layer, _, kind = entry.name.rpartition(".")
        if kind != "weight" or layer not in names:
            made.append(entry)
            continue
        packed = _Packed(entry, scheme)
        for name, (shape, dtype) in parts_of(scheme, entry.shape).items():
            read = partial(packed.read, name)
            made.append(Entry(f"{layer}.{name}", shape, dtype, read))
    return made


class _Packed:
    """A weight that is quantised once, though its tensors are read one by one."""

    def __init__(self, entry: Entry, scheme: Scheme) -> None:
        self._entry, self._scheme = entry, scheme
        self._unread: dict[str, Tensor] = {}

    def read(self, name: str) -> Tensor:
        if name not in self._unread:
            self._unread = pack(self._entry.read(), self._scheme)
        return self._unread.pop(name)
