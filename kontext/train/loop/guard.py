"""What to do with a training step whose loss is not finite, or spikes: stop, skip, or roll back.

Skipping takes back the step's update and goes on with the next batch; it keeps a second copy of
weights, averages and optimiser state in memory. Rolling back returns to the last checkpoint and
goes on with batches the run has not seen, as PaLM's trainers did (arXiv 2204.02311, section 5.1):
a spike's cause often lies before it. Either way the batches of every later step are the same as
without the incident, and every incident is recorded.
"""

import logging
import math
import statistics
from collections.abc import Mapping
from typing import Any

from kontext.errors import DivergedError
from kontext.train.loop.checkpoint import Checkpoints
from kontext.train.loop.state import TrainState, copied, set_weights, weights_of
from schemas.sections.training import GuardConfig

_log = logging.getLogger(__name__)
_FEWEST = 5  # steps without which a median says nothing


class Guard:
    """Checks the losses of every step, and undoes the step where the policy says so.

    Args:
        checkpoints: the run's; needed to roll back.

    Raises:
        ValueError: the policy rolls back and there are no checkpoints.
    """

    def __init__(
        self, policy: GuardConfig, state: TrainState, checkpoints: Checkpoints | None
    ) -> None:
        self.policy, self.state, self.checkpoints = policy, state, checkpoints
        actions = (policy.on_nan, policy.on_spike)
        self._skips, self.rolls_back = "skip" in actions, "roll-back" in actions
        if self.rolls_back and checkpoints is None:
            raise ValueError("a run without checkpoints has nothing to roll back to")
        self._before: dict[str, Any] = {}

    def before_step(self) -> None:
        """Keep what is needed to undo the step."""
        if self._skips:
            self._before = copied(weights_of(self.state))

    def accepts(self, losses: Mapping[str, float]) -> bool:
        """Whether the step counts; where it does not, its update has been taken back.

        Raises:
            DivergedError: the policy is to stop, or too many steps were left out already.
        """
        kind, what = self._fault(losses)
        if not kind:
            return True
        action = self.policy.on_nan if kind == "nan" else self.policy.on_spike
        if action == "keep":
            return True
        values = ", ".join(f"{name} {value:.6g}" for name, value in losses.items())
        line = f"step {self.state.step}: {what} ({values})"
        if action == "stop":
            raise DivergedError(f"{line}; the last checkpoint is kept, see `guard` in the recipe")
        if len(self.state.incidents) >= self.policy.most:
            raise DivergedError(f"{line}, after {self.policy.most} that were left out already")
        back_to = self._undo(action)
        _log.warning("%s: %s, weights of step %d", line, action, back_to)
        self.state.incidents.append(
            {
                "step": self.state.step,
                "kind": kind,
                "action": action,
                "weights_of_step": back_to,
                "line": line,
            }
        )
        return False

    def _fault(self, losses: Mapping[str, float]) -> tuple[str, str]:
        """(kind, description) of what is wrong with a step; both empty where nothing is."""
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        if bad:
            return "nan", f"{', '.join(bad)} is not finite"
        if self.policy.on_spike == "keep":
            return "", ""
        watched = next(iter(losses))
        rows = self.state.history[-self.policy.spike_window :]
        recent = [row[watched] for row in rows if watched in row]
        if len(recent) < min(_FEWEST, self.policy.spike_window):
            return "", ""
        median = statistics.median(recent)
        if median <= 0 or losses[watched] <= self.policy.spike_factor * median:
            return "", ""
        times = losses[watched] / median
        return "spike", f"{watched} is {times:.1f} times its median of {len(recent)} steps"

    def _undo(self, action: str) -> int:
        """Bring the weights back; returns the step they are of."""
        if action == "skip":
            set_weights(self.state, self._before)
            return self.state.step
        assert self.checkpoints is not None
        return self.checkpoints.roll_back(self.state)
