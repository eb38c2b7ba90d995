"""The state of a training run, its averaged weights, and how it is flattened for a checkpoint."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kontext.errors import WeightsError
from kontext.models.files.weights import Entry
from kontext.parallel.world import World, full_tensor, is_sharded, local_part, shard_like
from kontext.train.record.ledger import Ledger


class Ema:
    """EMA of the floating-point tensors of a module that train, kept in float32 beside it.

    Args:
        given: names of tensors that no step changes: they are not averaged.

    The decay is warmed up as (1 + n) / (10 + n), so that early averages do not remember the
    initial weights (the rule of TensorFlow's ExponentialMovingAverage).
    """

    def __init__(self, module: nn.Module, decay: float, given: Collection[str] = ()) -> None:
        self.decay = decay
        self.updates = 0
        self.shadow = {
            name: tensor.detach().float().clone()
            for name, tensor in module.state_dict().items()
            if name not in given
        }

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Fold the module's current weights in."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        tensors = module.state_dict()
        for name, average in self.shadow.items():
            average.lerp_(tensors[name].detach().float(), 1 - decay)

    def copy_to(self, module: nn.Module) -> None:
        """Overwrite the module's weights with the average."""
        _load(module, self.shadow)

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[nn.Module]:
        """The module with averaged weights inside the block, its own again afterwards."""
        tensors = module.state_dict()
        kept = {name: tensors[name].detach().clone() for name in self.shadow}
        self.copy_to(module)
        try:
            yield module
        finally:
            _load(module, kept)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages plus the update count, for a checkpoint."""
        return {**self.shadow, "__updates__": torch.tensor(self.updates)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.updates = int(state["__updates__"])
        self.shadow = {k: v.clone() for k, v in state.items() if k != "__updates__"}


@dataclass
class TrainState:
    """Everything a checkpoint holds.

    A module's tensors that are `given` are not in it: building the module brings them, and no step
    changes them. `start` has what is read into a module when it is built.
    """

    modules: dict[str, nn.Module]
    optimizers: dict[str, Optimizer]
    ema: dict[str, Ema] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)  # small numbers a method carries along
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    ledger: Ledger = field(default_factory=dict)  # what the numbers mean: must stay as it is
    incidents: list[dict[str, Any]] = field(default_factory=list)  # steps that were left out
    measured: list[dict[str, float]] = field(default_factory=list)  # validation, while it ran
    clock: list[dict[str, float | None]] = field(default_factory=list)  # differs from run to run
    given: Mapping[str, Collection[str]] = field(default_factory=dict)  # by module
    start: Mapping[str, Sequence[Entry]] = field(default_factory=dict)  # by module


def take_step(
    module: nn.Module, optimizers: Iterable[Optimizer], clip: float, world: World
) -> float:
    """Let `module` follow the gradient it holds, clipped.

    What ranks hold whole is summed over them first. Returns the whole gradient's norm before it
    was clipped.
    """
    parameters = [p for p in module.parameters() if p.grad is not None]
    world.add([p.grad for p in parameters if p.grad is not None and not is_sharded(p)])
    norm = torch.nn.utils.clip_grad_norm_(parameters, clip)
    for optimizer in optimizers:
        optimizer.step()
    return float(full_tensor(norm))


def weights_of(state: TrainState) -> dict[str, Any]:
    """What a step changes, as plain tensors and numbers that share the state's memory."""
    return {
        "modules": {
            name: {
                key: tensor
                for key, tensor in module.state_dict().items()
                if key not in state.given.get(name, ())
            }
            for name, module in state.modules.items()
        },
        "optimizers": {name: opt.state_dict() for name, opt in state.optimizers.items()},
        "ema": {name: ema.state_dict() for name, ema in state.ema.items()},
        "extra": state.extra,
    }


def set_weights(state: TrainState, weights: dict[str, Any]) -> None:
    """Load what `weights_of` returned into an equally built state."""
    for name, module in state.modules.items():
        _load(module, weights["modules"][name], state.given.get(name, ()))
    for name, optimizer in state.optimizers.items():
        optimizer.load_state_dict(weights["optimizers"][name])
    for name, ema in state.ema.items():
        ema.load_state_dict(weights["ema"][name])
    state.extra = weights["extra"]


def _load(
    module: nn.Module, tensors: Mapping[str, Tensor], given: Collection[str] | None = None
) -> None:
    """Copy tensors into a module.

    Raises:
        WeightsError: it has none of a name; or, with `given`, others besides that are not given.
    """
    found = module.load_state_dict(tensors, strict=False)
    missing = [] if given is None else [key for key in found.missing_keys if key not in given]
    if missing or found.unexpected_keys:
        raise WeightsError(
            f"weights of another model: missing {missing}, surplus {found.unexpected_keys}"
        )


def let_go(state: TrainState) -> None:
    """Free the memory of everything that trains; modules and averages keep their shapes."""
    nowhere = torch.device("meta")
    state.optimizers = {}  # they hold parameters and moments
    for module in state.modules.values():
        module.to_empty(device=nowhere)
    for ema in state.ema.values():
        ema.shadow = {name: average.to(nowhere) for name, average in ema.shadow.items()}


def copied(value: Any) -> Any:
    """The same nest of dicts, lists and tuples with every tensor in memory of its own."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: copied(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(copied(inner) for inner in value)
    return value


def flattened(state: TrainState) -> tuple[dict[str, Tensor], Any]:
    """(tensors by path, the rest): `weights_of` with None in the place of every tensor."""
    tensors: dict[str, Tensor] = {}

    def walk(value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            tensors[path] = value.detach()
            return None
        if isinstance(value, dict):
            return {key: walk(inner, f"{path}/{key}") for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(walk(inner, f"{path}/{i}") for i, inner in enumerate(value))
        return value

    rest = {key: walk(value, key) for key, value in weights_of(state).items()}
    return tensors, rest


def unflattened(tensors: Mapping[str, Tensor], rest: Any, path: str = "") -> Any:
    """What `flattened` took apart."""
    if path in tensors:
        return tensors[path]
    prefix = f"{path}/" if path else ""
    if isinstance(rest, dict):
        return {key: unflattened(tensors, inner, f"{prefix}{key}") for key, inner in rest.items()}
    if isinstance(rest, list | tuple):
        return type(rest)(unflattened(tensors, v, f"{prefix}{i}") for i, v in enumerate(rest))
    return rest


def empty_tensors(
    state: TrainState, wanted: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
) -> dict[str, Tensor]:
    """Tensors to read a checkpoint into, laid out over the ranks as this state is.

    The state's own tensors where it has them. Optimiser state that is not there yet has the rows
    of its parameter, which is how optimisers make it.
    """
    own, _ = flattened(state)
    parameters = {
        f"optimizers/{name}/state/{i}": parameter
        for name, optimizer in state.optimizers.items()
        for i, parameter in enumerate(p for g in optimizer.param_groups for p in g["params"])
    }
    tensors = {}
    for path, (dtype, size) in wanted.items():
        like = own.get(path, parameters.get(path.rpartition("/")[0]))
        if path in own and like is not None and like.shape == size:
            tensors[path] = like.detach()
        elif like is not None and size and like.shape[:1] == size[:1]:
            part = local_part(like)
            empty = torch.empty((*part.shape[:1], *size[1:]), dtype=dtype, device=part.device)
            tensors[path] = shard_like(like, empty)
        else:
            tensors[path] = torch.empty(size, dtype=dtype)
    return tensors
