"""The one training loop: schedules, finiteness, history, checkpoints and resume live here, once.

A method (autoencoder, flow, distillation) is an object whose `step(index)` does one update and
returns its losses. Everything random in a step derives from (seed, index), so a run that was
killed and resumed takes exactly the steps an unbroken run takes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import torch

from kontext.train.clock import Clock
from kontext.train.guard import Guard
from kontext.train.state import TrainState, restore, save
from schemas.recipes import GuardConfig

__all__ = ["Method", "Progress", "TrainState", "fit", "generator"]

_log = logging.getLogger(__name__)
_PURPOSES = ("batch", "noise", "time", "dropout", "posterior", "renoise", "negatives")


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
    policy: GuardConfig | None = None,
    clock: Clock | None = None,
) -> list[dict[str, float]]:
    """Run the method to its last step and return the history, resuming from `checkpoint`.

    Args:
        policy: what becomes of steps that are not finite or leap; by default the run stops at a
            loss that is not finite. Steps left out are in `state.incidents`, not in the history.
        clock: measures the steps, into `state.clock`.

    Raises:
        GateError: the policy stopped the run; the last checkpoint is left for inspection.
        NumericsError: the checkpoint was made with other numerics than `state.ledger`.
    """
    state = method.state
    guard = Guard(policy or GuardConfig(), state, checkpoint)
    clock = clock or Clock()
    if checkpoint is not None and checkpoint.exists():
        restore(state, checkpoint)
        _log.info("resumed at step %d of %d", state.step, method.total_steps)
    elif checkpoint is not None and guard.rolls_back:
        save(state, checkpoint)
    started = time.monotonic()
    while state.step < method.total_steps:
        guard.before_step()
        clock.start()
        losses = dict(method.step(state.step))
        state.clock.append(clock.lap(state.step))
        if guard.accepts(losses):
            state.history.append({"step": state.step, **losses})
        state.step += 1
        if progress is not None:
            progress(state.step, method.total_steps, losses)
        due = checkpoint_every and state.step % checkpoint_every == 0
        if checkpoint is not None and (due or state.step == method.total_steps):
            save(state, checkpoint)
    _log.info("%d steps, %.0f s in this process", state.step, time.monotonic() - started)
    return state.history
