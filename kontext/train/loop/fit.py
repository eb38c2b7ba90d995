"""The one training loop: checks of losses, history, checkpoints, validation and resuming.

A method (autoencoder, flow, distillation) is an object whose `step(index)` does one update and
returns its losses. Everything random in a step derives from (seed, index), so a run that was
killed and resumed takes exactly the steps an unbroken run takes.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch

from kontext.errors import Stopped
from kontext.parallel.ranks.rank import StepProgress
from kontext.parallel.ranks.watchdog import Watchdog
from kontext.train.loop.checkpoint import Checkpoints
from kontext.train.loop.clock import COLUMNS, Clock
from kontext.train.loop.guard import Guard
from kontext.train.loop.state import TrainState
from schemas.sections.training import GuardConfig

_log = logging.getLogger(__name__)
_PURPOSES = ("batch", "noise", "time", "dropout", "posterior", "renoise", "negatives")


class Method(Protocol):
    """What the loop needs of a training method."""

    state: TrainState
    total_steps: int

    def step(self, index: int) -> Mapping[str, float]:
        """Do update number `index` and return its losses and metrics."""


@dataclass(frozen=True)
class Measure:
    """Validation while a run goes on: `of(steps done)` after every so many steps.

    It must leave weights, averages and optimisers as they are, be called on all ranks, and give the
    same numbers on each where `patience` is to end the run.
    """

    every: int  # 0: never
    of: Callable[[int], Mapping[str, float]]
    patience: int = 0  # validations without a lower `val_loss` that end the run; 0: none do

    def due(self, step: int) -> bool:
        """Whether to measure after that many steps."""
        return self.every > 0 and step % self.every == 0

    def enough(self, measured: Sequence[Mapping[str, float]]) -> bool:
        """Whether none of the last `patience` validations was better than those before them."""
        losses = [row["val_loss"] for row in measured] if self.patience else []
        before, last = losses[: -self.patience], losses[-self.patience :]
        return bool(before) and min(last) >= min(before)


def generator(seed: int, index: int, purpose: str) -> torch.Generator:
    """A CPU generator for one purpose of one step; independent of every other one."""
    number = (seed * 1_000_003 + index) * len(_PURPOSES) + _PURPOSES.index(purpose)
    return torch.Generator().manual_seed(number & (2**63 - 1))


def fit(
    method: Method,
    *,
    checkpoints: Checkpoints | None = None,
    progress: StepProgress = lambda *_: None,
    policy: GuardConfig | None = None,
    clock: Clock | None = None,
    watchdog: Watchdog | None = None,
    measure: Measure | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> list[dict[str, float]]:
    """Run the method to its last step and return the history, resuming from `checkpoints`.

    Args:
        policy: what to do with a step whose loss is not finite, or spikes; by default the run
            stops at a loss that is not finite. Skipped steps are in `state.incidents`, not in the
            history.
        clock: measures the steps, into `state.clock`.
        watchdog: gets a beat after every step.
        measure: what to measure while the run goes on; it is kept in `state.measured`.
        stop: asked after every step whether to save and end; must say the same on all ranks.

    Raises:
        DivergedError: the policy stopped the run; the last checkpoint is left for inspection.
        NumericsError: the checkpoint was made with other numerics than `state.ledger`.
        Stopped: `stop` said so; the checkpoint is whole.
    """
    state, clock = method.state, clock or Clock()
    guard = Guard(policy or GuardConfig(), state, checkpoints)
    started = time.monotonic()
    with watchdog or nullcontext(), checkpoints or nullcontext():
        if checkpoints is not None and checkpoints.restore(state):
            _log.info("resumed at step %d of %d", state.step, method.total_steps)
        elif checkpoints is not None and guard.rolls_back:
            checkpoints.save(state)
        enough = measure is not None and measure.enough(state.measured)
        while state.step < method.total_steps and not enough:
            losses = _step(method, guard, clock)
            if watchdog is not None:
                watchdog.beat()
            cost = {name: state.clock[-1][name] for name in COLUMNS}
            progress(state.step, method.total_steps, {**losses, **cost})
            if measure is not None and measure.due(state.step):
                found = dict(measure.of(state.step))
                state.measured.append({"step": state.step, **found})
                progress(state.step, method.total_steps, found)
                enough = measure.enough(state.measured)
            ends = stop()
            last = ends or enough or state.step == method.total_steps
            if checkpoints is not None and (last or checkpoints.due(state.step)):
                checkpoints.save(state)
            if ends:
                raise Stopped(f"ended at step {state.step} of {method.total_steps}")
    _log.info("%d steps, %.0f s in this process", state.step, time.monotonic() - started)
    return state.history


def _step(method: Method, guard: Guard, clock: Clock) -> Mapping[str, float]:
    """Do one step, check its losses, measure its cost, and record both."""
    state = method.state
    guard.before_step()
    clock.start()
    losses = dict(method.step(state.step))
    state.clock.append(clock.lap(state.step))
    if guard.accepts(losses):
        state.history.append({"step": state.step, **losses})
    state.step += 1
    return losses
