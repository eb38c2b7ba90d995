"""Optimisers: AdamW for everything, or Muon for the hidden matrices and AdamW for the rest.

Muon orthogonalises the momentum of each weight matrix (Jordan et al. 2024). On short runs it needs
markedly fewer steps than AdamW; embeddings, modulations and outputs stay with AdamW as its authors
advise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from kontext.parallel.muon import sharded_step
from kontext.parallel.world import is_sharded

_HIDDEN = ("double_blocks.", "single_blocks.")


class MatrixMuon(Muon):
    """torch's Muon, which takes matrices only, for convolutions too.

    A kernel [out, in, h, w] is updated through a view [out, in * h * w] that shares its storage.
    Updates are scaled to AdamW's size (`match_rms_adamw`), so one learning rate serves both.
    Matrices that FSDP sharded are updated by `kontext.parallel.muon`; kernels are never sharded.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        self._sources = list(parameters)
        self._sharded = any(is_sharded(p) for p in self._sources)
        views = self._sources
        if not self._sharded:
            views = [nn.Parameter(p.detach().view(p.shape[0], -1)) for p in self._sources]
        super().__init__(views, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    def step(self, closure: Any = None) -> Any:
        """One update from the sources' gradients."""
        if self._sharded:
            return sharded_step(self)
        views = self.param_groups[0]["params"]
        for view, source in zip(views, self._sources, strict=True):
            view.grad = None if source.grad is None else source.grad.reshape(view.shape)
        return super().step(closure)  # type: ignore[no-untyped-call]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the sources' gradients."""
        for source in self._sources:
            source.grad = None


def adamw(parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0) -> AdamW:
    """Fused AdamW with betas (0.9, 0.95)."""
    return AdamW(parameters, lr=lr, betas=(0.9, 0.95), weight_decay=weight_decay, fused=True)


def transformer_optimizers(
    model: nn.Module, name: str, lr: float, weight_decay: float
) -> list[Optimizer]:
    """Optimisers for a FluxTransformer: `adamw`, or `muon` for the matrices inside blocks."""
    return _split(model, name, lr, weight_decay, _is_block_matrix)


def conv_optimizers(
    model: nn.Module, name: str, lr: float, weight_decay: float = 0.0
) -> list[Optimizer]:
    """Optimisers for a convolutional network: `adamw`, or `muon` for its inner kernels."""
    return _split(model, name, lr, weight_decay, _is_inner_kernel)


def _split(
    model: nn.Module,
    name: str,
    lr: float,
    weight_decay: float,
    for_muon: Callable[[str, nn.Parameter], bool],
) -> list[Optimizer]:
    named = [(key, p) for key, p in model.named_parameters() if p.requires_grad]
    if name == "adamw":
        return [adamw([p for _, p in named], lr, weight_decay)]
    if name != "muon":
        raise ValueError(f"unknown optimiser '{name}' (known: adamw, muon)")
    hidden = [p for key, p in named if for_muon(key, p)]
    chosen = {id(p) for p in hidden}
    rest = [p for _, p in named if id(p) not in chosen]
    return [MatrixMuon(hidden, lr, weight_decay), adamw(rest, lr, weight_decay)]


def _is_block_matrix(key: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim == 2 and key.startswith(_HIDDEN) and ".lin." not in key


def _is_inner_kernel(key: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim == 4 and min(parameter.shape[:2]) >= 16


def warmup_cosine(step: int, total: int, warmup: int, floor: float = 0.02) -> float:
    """Learning-rate factor: linear warm-up, then half a cosine down to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    cosine = 0.5 * (1 + float(torch.cos(torch.tensor(progress * torch.pi))))
    return floor + (1 - floor) * cosine


def scale_rates(optimizers: Iterable[Optimizer], factor: float) -> None:
    """Set every group's rate to `factor` times the rate it was built with."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group.setdefault("base_lr", group["lr"])
            group["lr"] = group["base_lr"] * factor
