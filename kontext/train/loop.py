"""The one training loop: schedules, finiteness, history, checkpoints and resume live here, once.

A method (autoencoder, flow, distillation) is an object whose `step(index)` does one update and
returns its losses. Everything random in a step derives from (seed, index), so a run that was
killed and resumed takes exactly the steps an unbroken run takes.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from kontext.errors import GateError
from kontext.train.ema import Ema

_log = logging.getLogger(__name__)
_PURPOSES = ("batch", "noise", "time", "dropout", "posterior", "renoise", "negatives")


@dataclass
class TrainState:
    """Everything a checkpoint holds."""

    modules: dict[str, nn.Module]
    optimizers: dict[str, Optimizer]
    ema: dict[str, Ema] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)  # small numbers a method carries along
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


class Method(Protocol):
    """What the loop needs of a training method."""

    state: TrainState
    total_steps: int

    def step(self, index: int) -> Mapping[str, float]:
        """Do update number `index` and return its losses and metrics."""


Progress = Callable[[int, int, Mapping[str, float]], None]


def generator(seed: int, index: int, purpose: str) -> torch.Generator:
    """A CPU generator for one purpose of one step; independent of every other one."""
    number = (seed * 1_000_003 + index) * len(_PURPOSES) + _PURPOSES.index(purpose)
    return torch.Generator().manual_seed(number & (2**63 - 1))


def fit(
    method: Method,
    *,
    checkpoint: Path | None = None,
    checkpoint_every: int = 0,
    progress: Progress | None = None,
) -> list[dict[str, float]]:
    """Run the method to its last step and return the history, resuming from `checkpoint`.

    Raises:
        GateError: a loss is not finite; the last checkpoint is left for inspection.
    """
    state = method.state
    if checkpoint is not None and checkpoint.exists():
        restore(state, checkpoint)
        _log.info("resumed at step %d of %d", state.step, method.total_steps)
    started = time.monotonic()
    while state.step < method.total_steps:
        losses = dict(method.step(state.step))
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        if bad:
            raise GateError(f"step {state.step}: {', '.join(bad)} is not finite")
        state.history.append({"step": state.step, **losses})
        state.step += 1
        if progress is not None:
            progress(state.step, method.total_steps, losses)
        due = checkpoint_every and state.step % checkpoint_every == 0
        if checkpoint is not None and (due or state.step == method.total_steps):
            save(state, checkpoint)
    _log.info("%d steps, %.0f s in this process", state.step, time.monotonic() - started)
    return state.history


def save(state: TrainState, path: Path) -> None:
    """Write a checkpoint atomically: the old one stays until the new one is whole on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    payload = {
        "modules": {name: module.state_dict() for name, module in state.modules.items()},
        "optimizers": {name: opt.state_dict() for name, opt in state.optimizers.items()},
        "ema": {name: ema.state_dict() for name, ema in state.ema.items()},
        "extra": state.extra,
        "step": state.step,
        "history": state.history,
    }
    with partial.open("wb") as file:
        torch.save(payload, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def restore(state: TrainState, path: Path) -> None:
    """Load what `save` wrote into an equally built state."""
    payload = torch.load(path, map_location="cpu", weights_only=True)
    for name, module in state.modules.items():
        module.load_state_dict(payload["modules"][name])
    for name, optimizer in state.optimizers.items():
        optimizer.load_state_dict(payload["optimizers"][name])
    for name, ema in state.ema.items():
        ema.load_state_dict(payload["ema"][name])
    state.extra = payload["extra"]
    state.step = payload["step"]
    state.history = payload["history"]
