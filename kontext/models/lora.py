"""Low-rank adapters (LoRA, Hu et al. 2021): W + B A beside frozen linear layers.

    apply_lora(model, LoraConfig(rank=16))     # only the adapters train from here on
    FlowMethod(config, data, model)            # optimises them: the rest is frozen
    save_lora(lora_of(model), path, model)     # kontext.models.files.lora_files
    merge(model)                               # plain linear layers again

A fused projection (qkv, linear1) has one adapter for all its parts: they share A. diffusers keeps
the parts apart; there each part gets A and its own rows of B, which is the same map exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kontext.errors import WeightsError
from kontext.models.files.weights import Entry
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.qlora.linear import QuantizedLinear, quantized_product
from kontext.models.qlora.schemes import Scheme

BLOCKS = ("*_blocks.*.qkv", "*_blocks.*_attn.proj", "*_blocks.*_mlp.[02]", "*_blocks.*.linear[12]")


@dataclass(frozen=True)
class LoraConfig:
    """Which layers get adapters, and how strong they are.

    rank: of each adapter, at least 1.
    alpha: the adapters are scaled by alpha / rank; None means alpha = rank.
    targets: shell patterns over module names; all linear layers of the blocks, save modulation.
    seed: of A's random start (B starts at zero, so that the model is unchanged at first).
    """

    rank: int = 16
    alpha: float | None = None
    targets: tuple[str, ...] = BLOCKS
    seed: int = 0

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return 1.0 if self.alpha is None else self.alpha / self.rank


class LoraLinear(nn.Linear):
    """A frozen linear layer with an adapter. Its own tensors keep their names in the state dict.

    `scheme` is what its weight is quantised by; empty where it is not.
    """

    def __init__(self, base: nn.Linear, down: Tensor, up: Tensor, scale: float) -> None:
        """Take over `base`'s tensors. down [rank, in] and up [out, rank] are kept in float32."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.bias = base.bias
        for name, parameter in base.named_parameters(recurse=False):
            setattr(self, name, parameter)
        self.scheme: Scheme | None = base.scheme if isinstance(base, QuantizedLinear) else None
        self.lora_down = nn.Parameter(down.float())
        self.lora_up = nn.Parameter(up.float())
        self.scale = scale

    def forward(self, input: Tensor) -> Tensor:
        """input W' + scale * (input A') B'."""
        if self.scheme:
            out = quantized_product(input, self, self.scheme)
        else:
            out = F.linear(input, self.weight, self.bias)
        low = F.linear(input.to(self.lora_down.dtype), self.lora_down)
        return out + (F.linear(low, self.lora_up) * self.scale).to(out.dtype)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """A plain layer with W + scale * B A, added in float32.

        Raises WeightsError: W is quantised. `Lora.merged` adds to the weights that it was made of.
        """
        if self.scheme:
            raise WeightsError(f"adapters are not merged into {self.scheme} weights")
        plain = nn.Linear(self.in_features, self.out_features, self.bias is not None, "meta")
        weight = add_product(self.weight, self.lora_down, self.lora_up * self.scale)
        plain.weight = nn.Parameter(weight, requires_grad=self.weight.requires_grad)
        plain.bias = self.bias
        return plain


class Adapter(NamedTuple):
    """What is beside one layer: W + scale * up down."""

    down: Tensor  # [rank, in]
    up: Tensor  # [out, rank]
    scale: float


def add_product(weight: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """weight + up @ down in float32, rounded once to the weight's dtype."""
    down, up = down.to(weight.device), up.to(weight.device)
    return torch.addmm(weight.float(), up.float(), down.float()).to(weight.dtype)


@dataclass(frozen=True)
class LoraInfo:
    """What a LoRA file says about itself; empty where nobody said it."""

    base: str = ""  # the model that the adapters were made for
    trigger: str = ""  # words that call up what they learned
    title: str = ""


@dataclass(frozen=True)
class Lora:
    """Adapters without a model: `<module>.weight` in our names -> (A [rank, in], B [out, rank]).

    The scale is folded into B.
    """

    adapters: Mapping[str, tuple[Tensor, Tensor]]
    label: str = "LoRA"
    lost: Mapping[str, float] = field(default_factory=dict)  # see lora_files.extract
    skipped: tuple[str, ...] = ()  # keys of the file that are for text encoders
    info: LoraInfo = field(default_factory=LoraInfo)
    rank: int = 0  # the largest in the file; adapters of fused layers can have a larger one here
    scales: Mapping[str, float] = field(default_factory=dict)  # that the file had, where not 1

    def check(self, model: FluxTransformer) -> Lora:
        """Return these adapters if they fit `model`.

        Raises:
            WeightsError: they are for another model; the message lists all keys that differ.
        """
        shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
        wrong = []
        for key, (down, up) in self.adapters.items():
            own, wanted = (up.shape[0], down.shape[1]), shapes.get(key)
            if own != wanted:
                wrong.append(f"{key} {list(own)} for {list(wanted) if wanted else 'nothing'}")
        if wrong:
            raise WeightsError(
                f"{self.label} is for another model; {len(wrong)} misshapen: {', '.join(wrong)}"
            )
        return self

    @property
    def idle(self) -> list[str]:
        """The adapters that change nothing: A or B is zero."""
        return [key for key, pair in self.adapters.items() if not all(part.any() for part in pair)]

    def require_effect(self) -> Lora:
        """Return these adapters if any of them changes anything. Raises WeightsError."""
        if len(self.idle) == len(self.adapters):
            raise WeightsError(f"{self.label} changes nothing: all its adapters are zero")
        return self

    def notes(self) -> list[str]:
        """What whoever uses the adapters should know, a line each."""
        said, idle = [], self.idle
        if self.skipped:
            said.append(
                f"{self.label}: {len(self.skipped)} tensors for text encoders are left out "
                f"({self.skipped[0]}, …); the text encoders stay as they are"
            )
        if idle:
            count = len(self.adapters)
            said.append(f"{self.label}: {len(idle)} of {count} adapters are zero ({idle[0]}, …)")
        return said

    def scaled(self, strength: float) -> Lora:
        """The same adapters at `strength` times their effect (0: none, 1: as they are)."""
        return replace(self, adapters={k: (a, b * strength) for k, (a, b) in self.adapters.items()})

    def merged(self, entries: Iterable[Entry], unchanged: list[str] | None = None) -> list[Entry]:
        """A transformer's tensors (`weights.bfl_entries`) with the adapters added to them.

        Args:
            unchanged: gets the names of adapted tensors that rounding left as they were, when they
                are read.
        """
        seen: list[str] = [] if unchanged is None else unchanged
        return [
            replace(entry, read=partial(self._merged, entry, seen))
            if entry.name in self.adapters
            else entry
            for entry in entries
        ]

    def _merged(self, entry: Entry, unchanged: list[str]) -> Tensor:
        before = entry.read()
        after = add_product(before, *self.adapters[entry.name])
        if torch.equal(after, before):
            unchanged.append(entry.name)
        return after


def linear_layers(model: nn.Module, patterns: Iterable[str]) -> list[str]:
    """Names of the linear layers that match one of some shell patterns."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and any(fnmatchcase(name, p) for p in patterns)
    ]


def apply_lora(model: FluxTransformer, config: LoraConfig) -> FluxTransformer:
    """Freeze the model and add fresh adapters to the target layers. Returns the model.

    Raises:
        WeightsError: a rank below 1, or patterns that match no linear layer.
    """
    return add_adapters(model, fresh_adapters(model, config))


def add_adapters(model: FluxTransformer, start: Mapping[str, Adapter]) -> FluxTransformer:
    """Freeze the model and put adapters beside its layers, which are named. Returns the model.

    On the meta device the adapters are there too: `adapter_state` is what to read into them.

    Raises:
        WeightsError: one of the layers has an adapter already.
    """
    model.requires_grad_(False)
    for name, (down, up, scale) in start.items():
        base = model.get_submodule(name)
        if not isinstance(base, nn.Linear) or isinstance(base, LoraLinear):
            raise WeightsError(f"{name} has an adapter already: merge it first")
        device = next(base.parameters()).device
        model.set_submodule(name, LoraLinear(base, down.to(device), up.to(device), scale))
    return model


def adapter_state(start: Mapping[str, Adapter]) -> dict[str, Tensor]:
    """A and B by the names that they have in the adapted model."""
    state = {}
    for name, adapter in start.items():
        state[f"{name}.lora_down"], state[f"{name}.lora_up"] = adapter.down, adapter.up
    return state


def fresh_adapters(model: nn.Module, config: LoraConfig) -> dict[str, Adapter]:
    """Adapters that change nothing yet, on the CPU, by the names of their layers.

    Raises:
        WeightsError: as `apply_lora`.
    """
    draw = torch.Generator().manual_seed(config.seed)
    found = {}
    for name in _targets(model, config):
        base = model.get_submodule(name)
        assert isinstance(base, nn.Linear)
        # as peft does: Kaiming-uniform with a = sqrt(5), which is the bound 1 / sqrt(in)
        bound = 1 / math.sqrt(base.in_features)
        down = torch.empty(config.rank, base.in_features).uniform_(-bound, bound, generator=draw)
        found[name] = Adapter(down, torch.zeros(base.out_features, config.rank), config.scale)
    return found


def given_adapters(lora: Lora, alpha: float | None = None) -> dict[str, Adapter]:
    """Adapters of a file to train on, by the names of their layers: they change what they did.

    Args:
        alpha: they are scaled by alpha / rank, with B the smaller for it; None: as in the file.

    Raises:
        WeightsError: all of them are zero, or there are numbers that are not finite.
    """
    found = {}
    for key, (down, up) in lora.require_effect().adapters.items():
        scale = lora.scales.get(key, 1.0) if alpha is None else alpha / lora.rank
        if not (down.isfinite().all() and up.isfinite().all()):
            raise WeightsError(f"{lora.label}: {key} has numbers that are not finite")
        found[key.removesuffix(".weight")] = Adapter(down.clone(), up / scale, scale)
    return found


def _targets(model: nn.Module, config: LoraConfig) -> list[str]:
    if config.rank < 1:
        raise WeightsError(f"a LoRA's rank must be at least 1, not {config.rank}")
    names = linear_layers(model, config.targets)
    if not names:
        raise WeightsError(f"no linear layer matches {', '.join(config.targets)}")
    return names


def adapters(model: nn.Module) -> dict[str, LoraLinear]:
    """The adapted layers by module name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, LoraLinear)}


def quantized_layers(model: nn.Module) -> list[LoraLinear | QuantizedLinear]:
    """The layers with a quantised weight, with or without an adapter."""
    layers = (m for m in model.modules() if isinstance(m, LoraLinear | QuantizedLinear))
    return [layer for layer in layers if layer.scheme]


def lora_of(model: nn.Module) -> Lora:
    """Copies of the model's adapters.

    Raises:
        WeightsError: it has none.
    """
    found = {
        f"{name}.weight": (
            layer.lora_down.detach().cpu().clone(),
            (layer.lora_up.detach() * layer.scale).cpu(),
        )
        for name, layer in adapters(model).items()
    }
    if not found:
        raise WeightsError("the model has no adapters")
    return Lora(found)


def merge(model: FluxTransformer) -> FluxTransformer:
    """Add the adapters to the weights, then remove them. Returns the model, still frozen."""
    for name, layer in adapters(model).items():
        model.set_submodule(name, layer.merged())
    return model
