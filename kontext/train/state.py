"""What a training run is at one moment, and how it is written down and read back.

A checkpoint is one file, replaced atomically: a process killed at any moment leaves either the old
one or the new one, whole.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kontext.train.ema import Ema
from kontext.train.ledger import Ledger, compare


@dataclass
class TrainState:
    """Everything a checkpoint holds."""

    modules: dict[str, nn.Module]
    optimizers: dict[str, Optimizer]
    ema: dict[str, Ema] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)  # small numbers a method carries along
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    ledger: Ledger = field(default_factory=dict)  # what the numbers mean: must stay as it is
    incidents: list[dict[str, Any]] = field(default_factory=list)  # steps that were left out
    clock: list[dict[str, float | None]] = field(default_factory=list)  # differs from run to run


def weights_of(state: TrainState) -> dict[str, Any]:
    """What a step changes, as plain tensors and numbers that share the state's memory."""
    return {
        "modules": {name: module.state_dict() for name, module in state.modules.items()},
        "optimizers": {name: opt.state_dict() for name, opt in state.optimizers.items()},
        "ema": {name: ema.state_dict() for name, ema in state.ema.items()},
        "extra": state.extra,
    }


def set_weights(state: TrainState, weights: dict[str, Any]) -> None:
    """Load what `weights_of` returned into an equally built state."""
    for name, module in state.modules.items():
        module.load_state_dict(weights["modules"][name])
    for name, optimizer in state.optimizers.items():
        optimizer.load_state_dict(weights["optimizers"][name])
    for name, ema in state.ema.items():
        ema.load_state_dict(weights["ema"][name])
    state.extra = weights["extra"]


def copied(value: Any) -> Any:
    """The same nest of dicts, lists and tuples with every tensor in memory of its own."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: copied(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(copied(inner) for inner in value)
    return value


def save(state: TrainState, path: Path) -> None:
    """Write a checkpoint atomically: the old one stays until the new one is whole on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    payload = {
        **weights_of(state),
        "step": state.step,
        "history": state.history,
        "ledger": state.ledger,
        "incidents": state.incidents,
        "clock": state.clock,
    }
    with partial.open("wb") as file:
        torch.save(payload, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read(path: Path) -> dict[str, Any]:
    """A checkpoint's content, on the CPU."""
    payload: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return payload


def restore(state: TrainState, path: Path) -> None:
    """Load what `save` wrote into an equally built state.

    Raises:
        NumericsError: the checkpoint was made with other numerics; nothing is loaded.
    """
    payload = read(path)
    compare(payload["ledger"], state.ledger, "the checkpoint", "this run")
    set_weights(state, payload)
    state.step = payload["step"]
    state.history = payload["history"]
    state.incidents = payload["incidents"]
    state.clock = payload["clock"]
