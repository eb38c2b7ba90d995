"""Optimisers: AdamW for everything, or Muon for the hidden matrices and AdamW for the rest.

Muon orthogonalises the momentum of each weight matrix (Jordan et al. 2024). On short runs it needs
markedly fewer steps than AdamW; embeddings, modulations and outputs stay with AdamW as its authors
advise. `adamw-8bit` and `adamw-bf16` keep AdamW's moments small (`light_adamw`).
Parameters can be given learning rates and decays of their own by their names.
"""

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from kontext.errors import RecipeError
from kontext.parallel.muon import sharded_step
from kontext.parallel.world import is_sharded
from kontext.train.loop.ema import Ema
from kontext.train.loop.state import TrainState
from kontext.train.optim.light_adamw import BETAS, light_adamw
from schemas.sections.training import FinetuneConfig, ParameterGroup

_HIDDEN = ("double_blocks.", "single_blocks.")
_NAMES = ("adamw", "adamw-8bit", "adamw-bf16", "muon")
Groups = list[dict[str, Any]]  # what torch's optimisers take: {"params", "lr", "weight_decay"}


class MatrixMuon(Muon):
    """torch's Muon, which takes matrices only, for convolutions too.

    A kernel [out, in, h, w] is updated through a view [out, in * h * w] that shares its storage.
    Updates are scaled to AdamW's size (`match_rms_adamw`), so one learning rate serves both.
    Matrices that FSDP sharded are updated by `kontext.parallel.muon`; kernels are never sharded.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter] | Groups, lr: float, weight_decay: float
    ) -> None:
        groups = _as_groups(parameters)
        self._sources = [p for group in groups for p in group["params"]]
        self._sharded = any(is_sharded(p) for p in self._sources)
        if not self._sharded:
            groups = [{**group, "params": list(map(_matrix, group["params"]))} for group in groups]
        super().__init__(groups, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    def step(self, closure: Any = None) -> Any:
        """One update from the sources' gradients."""
        if self._sharded:
            return sharded_step(self)
        views = chain.from_iterable(group["params"] for group in self.param_groups)
        for view, source in zip(views, self._sources, strict=True):
            view.grad = None if source.grad is None else source.grad.reshape(view.shape)
        return super().step(closure)  # type: ignore[no-untyped-call]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the sources' gradients."""
        for source in self._sources:
            source.grad = None


def _as_groups(parameters: Iterable[nn.Parameter] | Groups) -> Groups:
    found: list[Any] = list(parameters)
    return found if found and isinstance(found[0], dict) else [{"params": found}]


def _matrix(parameter: nn.Parameter) -> nn.Parameter:
    """A view [out, rest] of a parameter that shares its storage."""
    return nn.Parameter(parameter.detach().view(parameter.shape[0], -1))


def adamw(
    parameters: Iterable[nn.Parameter] | Groups, lr: float, weight_decay: float = 0.0
) -> AdamW:
    """Fused AdamW with betas (0.9, 0.95)."""
    return AdamW(parameters, lr=lr, betas=BETAS, weight_decay=weight_decay, fused=True)


def transformer_optimizers(
    model: nn.Module,
    name: str,
    lr: float,
    weight_decay: float,
    groups: Sequence[ParameterGroup] = (),
) -> list[Optimizer]:
    """Optimisers for a FluxTransformer; `muon` takes the matrices inside blocks."""
    return _split(model, name, lr, weight_decay, _is_block_matrix, groups)


def transformer_state(
    model: nn.Module, config: FinetuneConfig, lr: float, ema_decay: float
) -> TrainState:
    """The state of a run that trains a FluxTransformer, with the section's optimisers."""
    optimizers = transformer_optimizers(
        model, config.optimizer, lr, config.weight_decay, config.groups
    )
    return TrainState(
        modules={"model": model},
        optimizers={type(o).__name__.lower(): o for o in optimizers},
        ema={"model": Ema(model, ema_decay)},
    )


def conv_optimizers(
    model: nn.Module,
    name: str,
    lr: float,
    weight_decay: float = 0.0,
    groups: Sequence[ParameterGroup] = (),
) -> list[Optimizer]:
    """Optimisers for a convolutional network; `muon` takes its inner kernels."""
    return _split(model, name, lr, weight_decay, _is_inner_kernel, groups)


def _split(
    model: nn.Module,
    name: str,
    lr: float,
    weight_decay: float,
    for_muon: Callable[[str, nn.Parameter], bool],
    groups: Sequence[ParameterGroup],
) -> list[Optimizer]:
    if name not in _NAMES:
        raise ValueError(f"unknown optimiser '{name}' (known: {', '.join(_NAMES)})")
    chosen = by_name(model, lr, weight_decay, groups)
    if name != "muon":
        make: Callable[..., Optimizer] = adamw if name == "adamw" else light_adamw(name)
        return [make(_parameters(chosen), lr, weight_decay)]
    hidden = _only(chosen, lambda key, p: for_muon(key, p))
    rest = _only(chosen, lambda key, p: not for_muon(key, p))
    made: list[Optimizer] = []
    if hidden:
        made.append(MatrixMuon(_parameters(hidden), lr, weight_decay))
    if rest:
        made.append(adamw(_parameters(rest), lr, weight_decay))
    return made


def by_name(
    model: nn.Module, lr: float, weight_decay: float, groups: Sequence[ParameterGroup] = ()
) -> Groups:
    """The trainable parameters, {"named": [(name, parameter)], "lr", "weight_decay"} per group.

    The first group whose pattern matches a parameter's name takes it; a group whose rate is zero
    freezes its own. What no group takes comes first, with the rates given here.

    Raises:
        RecipeError: a pattern matches nothing, or nothing is left to train.
    """
    found: Groups = [{"named": [], "lr": lr, "weight_decay": weight_decay}]
    for group in groups:
        decay = weight_decay if group.weight_decay is None else group.weight_decay
        found.append({"named": [], "lr": lr * group.lr, "weight_decay": decay})
    seen: set[int] = set()
    for key, parameter in model.named_parameters():
        matches = [i for i, group in enumerate(groups, 1) if fnmatchcase(key, group.match)]
        seen.update(matches)
        if matches and not groups[matches[0] - 1].lr:
            parameter.requires_grad_(False)
        if parameter.requires_grad:
            found[matches[0] if matches else 0]["named"].append((key, parameter))
    missed = [group.match for i, group in enumerate(groups, 1) if i not in seen]
    if missed:
        raise RecipeError(f"parameter group '{missed[0]}' matches no parameter's name")
    if not any(group["named"] for group in found):
        raise RecipeError("the parameter groups freeze everything: nothing is left to train")
    return [group for group in found if group["named"]]


def _only(groups: Groups, wanted: Callable[[str, nn.Parameter], bool]) -> Groups:
    """The groups reduced to the parameters that are wanted."""
    kept = [{**g, "named": [pair for pair in g["named"] if wanted(*pair)]} for g in groups]
    return [group for group in kept if group["named"]]


def _parameters(groups: Groups) -> Groups:
    """The groups as optimisers take them."""
    return [
        {
            "params": [p for _, p in group["named"]],
            "lr": group["lr"],
            "weight_decay": group["weight_decay"],
        }
        for group in groups
    ]


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
            group.setdefault("base_lr", float(group["lr"]))
            rate = group["base_lr"] * factor
            if isinstance(group["lr"], Tensor):  # torchao's: read inside a compiled step
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
