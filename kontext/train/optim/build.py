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
from kontext.models.files.weights import Entry
from kontext.models.precision import compute_dtype
from kontext.parallel.muon import muon_step
from kontext.parallel.world import is_sharded
from kontext.train.loop.state import Ema, TrainState
from kontext.train.optim.light_adamw import BETAS, light_adamw
from schemas.sections.training import FinetuneConfig, ParameterGroup

_ADAPTER = (".lora_down", ".lora_up")  # of kontext.models.lora, which knows the transformer
_HIDDEN = ("double_blocks.", "single_blocks.")
_NAMES = ("adamw", "adamw-8bit", "adamw-bf16", "muon")
Groups = list[dict[str, Any]]  # what torch's optimisers take: {"params", "lr", "weight_decay"}


class MatrixMuon(Muon):
    """torch's Muon, which takes matrices only, for convolutions too.

    A kernel [out, in, h, w] is updated through a view [out, in * h * w] that shares its storage.
    Updates are scaled to AdamW's size (`match_rms_adamw`), so one learning rate serves both.
    Matrices that FSDP sharded, and all on a CPU without bf16 arithmetic, are updated by
    `kontext.parallel.muon`; kernels are never sharded. `products` is the dtype of the products.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter] | Groups, lr: float, weight_decay: float
    ) -> None:
        groups = _as_groups(parameters)
        self._sources = [p for group in groups for p in group["params"]]
        self._sharded = any(is_sharded(p) for p in self._sources)
        self.products = compute_dtype("auto", _device_of(self._sources[0]))
        if not self._sharded:
            groups = [{**group, "params": list(map(_matrix, group["params"]))} for group in groups]
        super().__init__(groups, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    def step(self, closure: Any = None) -> Any:
        """One update from the sources' gradients."""
        if self._sharded:
            return muon_step(self, self.products)
        views = list(chain.from_iterable(group["params"] for group in self.param_groups))
        for view, source in zip(views, self._sources, strict=True):
            view.grad = None if source.grad is None else source.grad.reshape(view.shape)
        if self.products != torch.bfloat16:
            found = muon_step(self, self.products)
        else:
            found = super().step(closure)  # type: ignore[no-untyped-call]
        for view in views:
            view.grad = None  # or gradients would outlive the sources', into the next step
        return found

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the sources' gradients."""
        for source in self._sources:
            source.grad = None


def _device_of(parameter: nn.Parameter) -> torch.device:
    """Where a parameter is updated: one without memory on the device that ranks will have."""
    if not parameter.is_meta:
        return parameter.device
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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


def transformer_state(
    model: nn.Module,
    config: FinetuneConfig,
    lr: float,
    ema_decay: float,
    start: Sequence[Entry] = (),
) -> TrainState:
    """The state of a run that trains a FluxTransformer, with the section's optimisers.

    What adapters are beside is given: it is neither averaged nor saved.

    Args:
        start: what was read into the model.
    """
    made = build_optimizers(model, config.optimizer, lr, config.weight_decay, config.groups)
    given: frozenset[str] = frozenset()
    if any(name.endswith(_ADAPTER) for name, _ in model.named_parameters()):
        given = frozenset(name for name, p in model.named_parameters() if not p.requires_grad)
    return TrainState(
        modules={"model": model},
        optimizers={type(o).__name__.lower(): o for o in made},
        ema={"model": Ema(model, ema_decay, given)},
        given={"model": given},
        start={"model": tuple(start)},
    )


def build_optimizers(
    model: nn.Module,
    name: str,
    lr: float,
    weight_decay: float = 0.0,
    groups: Sequence[ParameterGroup] = (),
) -> list[Optimizer]:
    """Optimisers for a FluxTransformer or a convolutional network.

    `muon` takes the matrices inside a transformer's blocks, or the inner kernels of convolutions.
    """
    if name not in _NAMES:
        raise ValueError(f"unknown optimiser '{name}' (known: {', '.join(_NAMES)})")
    chosen = by_name(model, lr, weight_decay, groups)
    if name != "muon":
        make: Callable[..., Optimizer] = adamw if name == "adamw" else light_adamw(name)
        return [make(_parameters(chosen), lr=lr, weight_decay=weight_decay)]
    made: list[Optimizer] = []
    if hidden := _parameters(chosen, _is_hidden):
        made.append(MatrixMuon(hidden, lr, weight_decay))
    if rest := _parameters(chosen, lambda *named: not _is_hidden(*named)):
        made.append(adamw(rest, lr, weight_decay))
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


def _parameters(
    groups: Groups, wanted: Callable[[str, nn.Parameter], bool] = lambda *_: True
) -> Groups:
    """The groups as optimisers take them, reduced to the parameters that are wanted."""
    made = [
        {
            "params": [p for name, p in group["named"] if wanted(name, p)],
            "lr": group["lr"],
            "weight_decay": group["weight_decay"],
        }
        for group in groups
    ]
    return [group for group in made if group["params"]]


def _is_hidden(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon is for it: a matrix inside a block, or a kernel between wide maps."""
    if parameter.ndim == 4:
        return min(parameter.shape[:2]) >= 16
    return parameter.ndim == 2 and name.startswith(_HIDDEN) and ".lin." not in name


def warmup_cosine(step: int, total: int, warmup: int, floor: float = 0.02) -> float:
    """Learning-rate factor: linear warm-up, then half a cosine down to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    cosine = 0.5 * (1 + float(torch.cos(torch.tensor(progress * torch.pi))))
    return floor + (1 - floor) * cosine


def rate_factor(schedule: str, step: int, total: int, warmup: int, floor: float = 0.02) -> float:
    """Learning-rate factor of a step: a linear warm-up, then what `FinetuneConfig.schedule` names.

    `cosine` and `linear` end at `floor`; `constant` stays at 1.
    """
    if schedule == "cosine":
        return warmup_cosine(step, total, warmup, floor)
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    return 1 - (1 - floor) * (step - warmup) / max(1, total - warmup)


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
